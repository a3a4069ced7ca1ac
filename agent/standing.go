package agent

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/covey-edge/covey/agent/internal/pipeline"
	"github.com/covey-edge/covey/agent/internal/uplink"
	"github.com/covey-edge/covey/hal"
)

// A Standing is how an agent stands.
type Standing struct {
	// Settled: every pipeline has given a result, or Text says why it gives none.
	Settled bool
	Text    string // a line for people
}

const (
	quietTime = 10 * time.Second // without a frame, until a pipeline with a model counts as one whose source is silent
	rateTime  = 10 * time.Second // that rates are of
)

// standing makes Standings. It is used by one goroutine.
type standing struct {
	a      *agent
	names  []string // of the pipelines, in order
	since  time.Time
	before uint64 // results at the time at
	at     time.Time
	fps    float64
}

func newStanding(a *agent) *standing {
	now := time.Now()
	return &standing{a: a, names: slices.Sorted(maps.Keys(a.stations)), since: now, at: now}
}

// say tells who asked how the agent stands.
func (s *standing) say() {
	if s.a.Config.Standing == nil {
		return
	}
	now, results, settled := time.Now(), uint64(0), true
	var troubles []string
	for _, name := range s.names {
		st := s.a.stations[name].pipe.Stats()
		results += st.Published
		trouble := s.trouble(name, &st, now)
		if trouble != "" {
			troubles = append(troubles, name+": "+trouble)
		} else if st.Published == 0 {
			settled = false
		}
	}
	if d := now.Sub(s.at); d >= rateTime || s.fps == 0 && d > 0 {
		s.fps = float64(results-s.before) / d.Seconds()
		if d >= rateTime {
			s.before, s.at = results, now
		}
	}
	u := s.a.uplink.Stats()
	if t := storage(u.Disk); t != "" {
		troubles = append(troubles, t)
	}
	text := fmt.Sprintf("%d %s, %.1f fps%s", len(s.names), plural("pipeline", len(s.names)), s.fps, s.links(&u))
	s.a.Config.Standing(Standing{Settled: settled, Text: strings.Join(append([]string{text}, troubles...), "; ")})
}

// trouble is why a pipeline gives no results, or is not what it should be; "" when all
// is well, or may still become so.
func (s *standing) trouble(name string, st *pipeline.Stats, now time.Time) string {
	station := s.a.stations[name]
	if station.home().Off {
		return "switched off"
	}
	if f := station.fault(); f != nil {
		return f.Code
	}
	loaded, _ := station.working()
	switch {
	case st.Degraded != "":
		return st.Degraded
	case loaded == nil && station.file.Model != "":
		return "" // it is being opened
	case loaded == nil:
		if p := s.a.loop.Reported().Pipelines[name]; p.Fault != nil {
			return p.Fault.Code
		} else if p.Active == nil {
			return "no model yet"
		}
		return ""
	case station.degraded() != "":
		return "degraded, on " + cmp.Or(string(loaded.Info().Accelerator), "another accelerator")
	case st.Captured == 0 && now.Sub(s.since) >= quietTime:
		return "no frames yet"
	}
	return ""
}

// storage is what is wrong with the disk, by why the outbox cannot write; "" for nothing.
func storage(err error) string {
	if err == nil {
		return ""
	}
	return "data: " + cmp.Or(string(hal.CodeOf(err)), string(hal.CodeUnknown))
}

func (s *standing) links(u *uplink.Stats) string {
	text := ""
	if s.a.Fleet != nil {
		text += ", fleet " + upOrDown(u.FleetUp)
	}
	if s.a.Home != nil {
		text += ", home " + upOrDown(u.HomeUp)
	}
	return text
}

func upOrDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

func plural(noun string, n int) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}
