package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/covey-edge/covey/agent/internal/local"
	"github.com/covey-edge/covey/agent/internal/picture"
	"github.com/covey-edge/covey/agent/internal/pipeline"
	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/agent/internal/uplink"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// A page is the agent as its own page shows and sets it: a local.Board.
type page struct{ *agent }

// openPage opens the page of the board; nil where there is none, or it cannot be: the board
// does its work without.
func (a *agent) openPage() *local.Server {
	f := a.File.Local
	if f == nil {
		return nil
	}
	password, token, err := f.Secrets()
	var s *local.Server
	if err == nil {
		s, err = local.New(local.Config{Board: page{a}, Listen: f.Listen, Password: password, Token: token,
			Hosts: append([]string{string(a.Device), a.hostName()}, f.Hosts...), Ingress: f.Ingress, Log: a.Log})
	}
	if err != nil {
		a.Log.Error().Err(err).Msg("there is no page")
		return nil
	}
	return s
}

// hostName is the board's own name, "" where that is not known.
func (a *agent) hostName() string {
	if a.Root == nil {
		return ""
	}
	b, err := fs.ReadFile(a.Root, "etc/hostname")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// pageURL is where people of the house find the page; "" where they do not.
func (a *agent) pageURL() string {
	f := a.File.Local
	if f == nil || f.Ingress.IsValid() {
		return ""
	}
	host, port, err := net.SplitHostPort(f.Listen)
	if err != nil || loopback(host) {
		return ""
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		if host = a.hostName(); host == "" {
			return ""
		}
		host += ".local"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// An offence is an error with the kind of it that the page knows.
type offence struct {
	error
	kind error
}

// Unwrap has both.
func (o offence) Unwrap() []error { return []error{o.error, o.kind} }

// blame says to the page what kind of error it is.
func blame(err error) error {
	switch hal.CodeOf(err) {
	case hal.CodePipeline:
		return offence{err, local.ErrNotFound}
	case hal.CodeConfig:
		return offence{err, local.ErrLocked}
	case hal.CodePrivacy:
		return offence{err, local.ErrPrivate}
	}
	return err
}

func (p page) station(name string) (*station, error) {
	if s := p.stations[name]; s != nil {
		return s, nil
	}
	return nil, blame(&hal.Error{Code: hal.CodePipeline, Text: fmt.Sprintf("no pipeline %.40q on this board", name)})
}

// Status is how the board is.
func (p page) Status() local.Status {
	u := p.uplink.Stats()
	s := local.Status{
		Device: string(p.Device), Board: p.Board.Name, Version: p.Version, Now: time.Now(), Uptime: time.Since(p.started).Seconds(),
		Memory: p.ownMemory(), Gauges: p.gauges(), Links: links(p.Config, u),
		Outbox: local.Outbox{Waiting: int64(u.Waiting), Lost: u.Lost, Flags: p.flags(u)}, Pipelines: []local.Pipeline{},
	}
	select {
	case <-p.probed:
		s.Runtimes = p.runtimes
	default:
		s.NotReady = "starting"
	}
	for _, f := range p.File.Pipelines {
		one := p.pipeline(p.stations[f.Name])
		s.Pipelines = append(s.Pipelines, one)
		if s.NotReady == "" {
			s.NotReady = notReady(p.stations[f.Name], one.State)
		}
	}
	return s
}

// notReady is one word for why a pipeline gives no results.
func notReady(s *station, state local.State) string {
	switch {
	case s.noModel.Load() != nil:
		return "model"
	case s.noFrames.Load() != nil:
		return "source"
	case state == local.StateStarting || state == local.StateFailed:
		return string(state)
	}
	return ""
}

// ownMemory is the agent's PSS in bytes, 0 where that cannot be read.
func (a *agent) ownMemory() int64 {
	if a.Root == nil {
		return 0
	}
	b, err := fs.ReadFile(a.Root, "proc/self/smaps_rollup")
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(b) {
		if f := strings.Fields(string(line)); len(f) >= 2 && f[0] == "Pss:" {
			kb, _ := strconv.ParseInt(f[1], 10, 48)
			return kb << 10
		}
	}
	return 0
}

func (p page) gauges() local.Gauges {
	h := p.health.Load()
	if h == nil {
		return local.Gauges{}
	}
	return local.Gauges{CPU: &h.CPU, Temperature: h.Temp, Throttled: h.Throttled}
}

func links(c Config, u uplink.Stats) []local.Link {
	list := []local.Link{}
	if c.Fleet != nil {
		list = append(list, local.Link{Name: "fleet", Up: u.FleetUp})
	}
	if c.Home != nil {
		list = append(list, local.Link{Name: "home", Up: u.HomeUp})
	}
	return list
}

// pipeline is how one does.
func (p page) pipeline(s *station) local.Pipeline {
	st := s.pipe.Stats()
	h := st.Health(&pipeline.Stats{})
	l, _ := s.working()
	one := local.Pipeline{
		Name: s.file.Name, Source: s.file.Source.Type, P50: h.P50, P99: h.P99, Captured: h.Captured, Published: h.Published,
		Dropped: h.Dropped, State: s.standing(&st), Privacy: privacyOf(s.scene.studio.Policy()), Tried: []local.Attempt{},
		Aspect: math.Float64frombits(s.aspect.Load()),
	}
	if last := p.health.Load(); last != nil {
		one.FPS = last.Pipes[s.file.Name].FPS
	}
	if f := s.fault(); f != nil {
		one.Code, one.Text = f.Code, f.Text
	} else if st.Degraded != "" {
		one.Code = st.Degraded
	}
	if l == nil {
		return one
	}
	i := l.Info()
	if i.Degraded != "" && one.Code == "" {
		one.Code, one.Text = wire.DegradedFallback, i.Degraded
	}
	one.Model = local.Model{Name: l.Ref.Name, Version: l.Ref.Ver, SHA: l.Ref.SHA}
	one.Kind, one.Accelerator, one.Memory = l.reason, string(i.Accelerator), l.memory()
	if kind, _, found := strings.Cut(l.reason, ":"); found {
		one.Kind = kind
	}
	one.Tried = append(one.Tried, local.Attempt{Accelerator: string(i.Accelerator), Detail: fmt.Sprintf("%d threads", i.Threads), Ms: h.P50, InUse: true})
	for _, t := range i.Tried {
		one.Tried = append(one.Tried, local.Attempt{Accelerator: string(t.Accelerator), Detail: fmt.Sprintf("%d threads", t.Threads), Ms: millis(t.Took), Reason: t.Reason})
	}
	return one
}

// standing is how a pipeline stands, in a word.
func (s *station) standing(st *pipeline.Stats) local.State {
	l, _ := s.working()
	switch {
	case s.home().Off:
		return local.StateOff
	case s.fault() != nil:
		return local.StateFailed
	case l == nil || st.Published == 0 && st.Degraded == "":
		return local.StateStarting
	case st.Degraded != "" || l.Info().Degraded != "":
		return local.StateDegraded
	}
	return local.StateRuns
}

func privacyOf(p picture.Policy) local.Privacy {
	v := local.Privacy{Class: string(cmp.Or(p.Class, picture.Numbers)), Pictures: p.Allows(picture.Page)}
	switch {
	case !v.Pictures:
		v.Text = "No picture leaves this pipeline: it gives numbers alone."
	case p.To == picture.Page:
		v.Text = "Pictures are shown on this page alone."
	case p.To == picture.Home:
		v.Text = "Pictures are shown on this page, and to the house's broker."
	default:
		v.Text = "Pictures are shown on this page, to the house's broker and to the fleet."
	}
	if len(p.Blur) > 0 {
		v.Text += " Unrecognisable on them: " + strings.Join(p.Blur, ", ") + "."
	}
	return v
}

// Stages are histograms of where the time of frames goes.
func (p page) Stages() []local.Stage {
	var all []local.Stage
	ends := pipeline.Upper()
	for _, f := range p.File.Pipelines {
		st := p.stations[f.Name].pipe.Stats()
		for _, stage := range pipeline.Stages() {
			all = append(all, local.Stage{Pipeline: f.Name, Stage: stage.String(), Upper: ends, Counts: st.Stages[stage][:], Sum: st.Times[stage]})
		}
		all = append(all, local.Stage{Pipeline: f.Name, Stage: "total", Upper: ends, Counts: st.Latency[:], Sum: st.Total})
	}
	return all
}

// Events are those that were told after a number, oldest first.
func (p page) Events(after uint64) []local.Event {
	var all []local.Event
	for name, s := range p.stations {
		for _, e := range s.scene.recent() {
			if e.n > after {
				all = append(all, local.Event{Seq: e.n, ID: e.Event.Event, TS: e.TS, Pipeline: name, Type: e.Type, Label: e.Label, Zone: e.Zone,
					Score: e.Score, Count: e.Count, Box: e.Box, Picture: p.shows(e.Image)})
			}
		}
	}
	slices.SortFunc(all, func(a, b local.Event) int { return cmp.Compare(a.Seq, b.Seq) })
	return all[max(0, len(all)-local.MaxEvents):]
}

func (p page) shows(id string) bool {
	picture, _ := p.EventPicture(id)
	return picture != nil
}

// EventPicture is the JPEG of an event.
func (p page) EventPicture(id string) ([]byte, error) {
	kept := p.album.Get(id)
	if kept == nil {
		return nil, offence{fmt.Errorf("no picture of event %.80q: it was not allowed, or has expired", id), local.ErrNotFound}
	}
	jpeg, err := kept.Show(picture.Page)
	return jpeg, blame(err)
}

// Doctor looks at the board.
func (p page) Doctor(ctx context.Context) ([]hal.Diagnosis, error) {
	if p.Config.Doctor == nil {
		return nil, nil
	}
	return p.Config.Doctor(ctx)
}

// Preview sends what a pipeline sees.
func (p page) Preview(ctx context.Context, name string) (<-chan local.View, error) {
	s, err := p.station(name)
	if err != nil {
		return nil, err
	}
	moments, err := s.scene.view(ctx)
	if err != nil {
		return nil, err
	}
	views := make(chan local.View, 1)
	go func() {
		defer close(views)
		for {
			select {
			case m := <-moments:
				select {
				case views <- viewOf(m):
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return views, nil
}

func viewOf(m *View) local.View {
	v := local.View{TS: m.At, Items: []local.Item{}}
	if m.Picture != nil {
		v.JPEG, _ = m.Picture.Show(picture.Page) // without it there are items
	}
	for _, it := range m.Items {
		v.Items = append(v.Items, local.Item{Label: it.Label, Score: it.Score, Box: it.Box})
	}
	return v
}

// Regions are a pipeline's zones and masks.
func (p page) Regions(name string) (local.Regions, error) {
	s, err := p.station(name)
	if err != nil {
		return local.Regions{}, err
	}
	who := p.origins(s)
	r := local.Regions{Zones: []local.Zone{}, Masks: []local.Zone{}, Origin: local.Origin(who.zones)}
	if err := errors.Join(who.zones.pinned("the zones"), who.masks.pinned("the masks")); err != nil {
		r.Locked = err.Error()
	}
	for _, z := range s.zones() {
		r.Zones = append(r.Zones, local.Zone{ID: z.Name, Points: points(z.Corners)})
	}
	for i, m := range s.masks() {
		r.Masks = append(r.Masks, local.Zone{ID: "mask-" + strconv.Itoa(i+1), Points: points(m)})
	}
	return r, nil
}

func points(corners [][2]float32) [][2]float64 {
	list := make([][2]float64, len(corners))
	for i, c := range corners {
		list[i] = [2]float64{float64(c[0]), float64(c[1])}
	}
	return list
}

func corners(points [][2]float64) [][2]float32 {
	list := make([][2]float32, len(points))
	for i, p := range points {
		list[i] = [2]float32{float32(p[0]), float32(p[1])}
	}
	return list
}

// SetRegions replaces zones and masks.
func (p page) SetRegions(name string, zones, masks []local.Zone) error {
	drawn, covered := []slots.Zone{}, [][][2]float32{}
	for _, z := range zones {
		drawn = append(drawn, slots.Zone{Name: z.ID, Corners: corners(z.Points)})
	}
	for _, m := range masks {
		covered = append(covered, corners(m.Points))
	}
	return blame(p.draw(name, drawn, covered))
}

// Settings are what a person may set of a pipeline.
func (p page) Settings(name string) ([]local.Setting, error) {
	s, err := p.station(name)
	if err != nil {
		return nil, err
	}
	on := local.Setting{Name: wire.SettingEnabled, Title: "Switched on", Value: !s.home().Off, Origin: local.OriginDefault}
	if s.home().Off {
		on.Origin = local.OriginHome
	}
	list := []local.Setting{on}
	if least := s.threshold(); least > 0 {
		who := p.origins(s).threshold
		t := local.Setting{Name: wire.SettingThreshold, Title: "Least score", Value: math.Round(float64(least)*1e4) / 1e4, Min: 0.01, Max: 1, Step: 0.01, Origin: local.Origin(who)}
		if err := who.pinned("the threshold"); err != nil {
			t.Locked = err.Error()
		}
		list = append(list, t)
	}
	return list, nil
}

// Set sets something of a pipeline, or with nil forgets what was set here.
func (p page) Set(name, setting string, value any) error {
	s, err := p.station(name)
	if err != nil {
		return err
	}
	switch v := value.(type) {
	case bool:
		return blame(p.set(name, setting, onOff(v)))
	case float64:
		return blame(p.set(name, setting, strconv.FormatFloat(v, 'g', -1, 64)))
	}
	return blame(p.keep(s, func(h *slots.Home) {
		switch setting {
		case wire.SettingEnabled:
			h.Off = false
		case wire.SettingThreshold:
			h.Threshold = 0
		}
	}))
}
