package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/covey-edge/covey/fleet/window"
	"github.com/covey-edge/covey/fleet/wire"
)

// ErrInvalid says that a policy is malformed.
var ErrInvalid = errors.New("invalid policy")

const (
	maxPhases   = 16
	maxDuration = Duration(90 * 24 * time.Hour)
	maxDevices  = 1 << 20
	maxQuery    = 1024
)

// MaxJSON is how long a policy may be, bytes.
const MaxJSON = 32 << 10

// Parse reads a policy as JSON, strictly. Errors wrap ErrInvalid.
func Parse(b []byte) (p Policy, err error) {
	if len(b) > MaxJSON {
		return p, fmt.Errorf("%w: longer than %d bytes", ErrInvalid, MaxJSON)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return p, fmt.Errorf("%w: %s", ErrInvalid, strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); err != io.EOF {
		return p, fmt.Errorf("%w: something follows it", ErrInvalid)
	}
	return p, p.Validate()
}

// Validate says what is wrong with a policy, nil when nothing is. Errors wrap
// ErrInvalid.
func (p Policy) Validate() error {
	c := checker{}
	c.that(len(p.Phases) <= maxPhases, "phases: %d, at most %d", len(p.Phases), maxPhases)
	names := map[string]bool{}
	percent := 0.0
	for i, ph := range p.Phases {
		key := fmt.Sprintf("phases[%d]", i)
		if wire.ValidID(ph.Name) {
			key = "phase " + ph.Name
		}
		c.phase(key, ph)
		c.that(!names[ph.Name], "%s: two phases have this name", key)
		names[ph.Name] = true
		if ph.Percent > 0 {
			c.that(ph.Percent >= percent, "%s: percent counts the phases before, too: %v is less than %v", key, ph.Percent, percent)
			percent = ph.Percent
		}
	}
	c.gates("gates", p.Gates)
	c.percent("errors.percent", p.Errors.Percent)
	c.number("errors.sample", p.Errors.Sample)
	c.oneOf("on_error", string(p.OnError), string(Pause), string(Abort), string(Revert))
	c.oneOf("membership", string(p.Membership), string(Snapshot), string(Dynamic))
	c.duration("offline", p.Offline)
	c.number("concurrency", p.Concurrency)
	c.number("per_site", p.PerSite)
	c.that(p.SiteLabel == "" || wire.ValidID(p.SiteLabel), "site_label: %.40q is no label", p.SiteLabel)
	c.order(p.Order)
	return c.err
}

// A checker keeps the first thing that is wrong.
type checker struct{ err error }

func (c *checker) that(ok bool, format string, args ...any) {
	if c.err == nil && !ok {
		c.err = fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
	}
}

func (c *checker) percent(key string, v float64) { c.within(key, v, 0, 100) }
func (c *checker) within(key string, v, lo, hi float64) {
	c.that(!math.IsNaN(v) && v >= lo && v <= hi, "%s: %v is not within %v…%v", key, v, lo, hi)
}
func (c *checker) number(key string, n int) {
	c.that(n >= 0 && n <= maxDevices, "%s: %d is not within 0…%d", key, n, maxDevices)
}
func (c *checker) duration(key string, d Duration) {
	c.that(d >= 0 && d <= maxDuration, "%s: %s is not within 0s…%s", key, d, maxDuration)
}
func (c *checker) oneOf(key, v string, list ...string) {
	ok := v == ""
	for _, w := range list {
		ok = ok || v == w
	}
	c.that(ok, "%s: %.40q is none of %s", key, v, strings.Join(list, ", "))
}

func (c *checker) phase(key string, ph Phase) {
	c.that(wire.ValidID(ph.Name), "%s: name: %.40q, use [a-z0-9-]{1,32}", key, ph.Name)
	c.number(key+": count", ph.Count)
	c.percent(key+": percent", ph.Percent)
	c.that(len(ph.Query) <= maxQuery, "%s: query: longer than %d bytes", key, maxQuery)
	ways := 0
	for _, is := range []bool{ph.Count > 0, ph.Percent > 0, ph.Query != ""} {
		if is {
			ways++
		}
	}
	c.that(ways == 1, "%s: give it one of count, percent, query", key)
	c.duration(key+": soak", ph.Soak)
	c.oneOf(key+": approval", ph.Approval, "operator", "admin")
	c.gates(key+": gates", ph.Gates)
}

func (c *checker) gates(key string, g *Gates) {
	if g == nil {
		return
	}
	c.percent(key+".success_percent", g.Success)
	if g.Crashes != nil {
		c.percent(key+".crashes_percent", *g.Crashes)
	}
	if g.Fallback != nil {
		c.percent(key+".fallback_percent", *g.Fallback)
	}
	c.within(key+".slower_percent", g.Slower, 0, 1e5)
	c.within(key+".latency_ms", g.LatencyMS, 0, 1e6)
	c.percent(key+".agreement_percent", g.Agreement)
	c.percent(key+".drift_percent", g.Drift)
	c.within(key+".score_percent", g.Score, 0, 1e5)
	c.within(key+".temp_max", g.TempMax, 0, 200)
	c.percent(key+".share_percent", g.Share)
	c.number(key+".sample", g.Sample)
}

// order asks the one who reads it on the device: a document that a device would
// refuse is no order.
func (c *checker) order(o Order) {
	c.oneOf("order.mode", o.Mode, wire.ModeStage, wire.ModeActivate)
	want := o.Release(wire.DesiredRelease{
		Release: wire.Digest(strings.Repeat("0", 64)), Length: 1, Name: "m", Version: "1.0.0", Execution: "ex", Attempt: 1,
	})
	doc := wire.Desired{Signed: wire.DesiredSigned{V: wire.Version, Device: "d", Pipelines: map[string]wire.DesiredRelease{"p": want}}}
	if err := doc.Validate(); err != nil {
		c.that(false, "order: %s", strings.TrimPrefix(err.Error(), "pipelines.p."))
	}
	if o.Window != nil {
		_, err := window.Parse(*o.Window)
		c.that(err == nil, "order.window: %v", err)
	}
}
