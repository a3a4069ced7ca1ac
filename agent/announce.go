package agent

import (
	"math"
	"slices"
	"strconv"

	"github.com/covey-edge/covey/agent/internal/event"
	"github.com/covey-edge/covey/agent/internal/health"
	"github.com/covey-edge/covey/agent/internal/homeassistant"
	"github.com/covey-edge/covey/agent/internal/picture"
	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/agent/internal/uplink"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/sketch"
	"github.com/covey-edge/covey/hal/task"
	"github.com/covey-edge/covey/hal/vision"
)

// announce tells the house what this board has and how it is set.
func (a *agent) announce() {
	c := wire.HomeCapabilities{V: wire.Version, Device: a.Device, Name: string(a.Device), Board: a.Board.Name, Agent: a.Version}
	for _, f := range a.File.Pipelines {
		s := a.stations[f.Name]
		p := s.capabilities()
		labels := make([]string, len(p.Labels))
		for i, l := range p.Labels {
			labels[i] = l.Label
		}
		a.uplink.SetCounts(f.Name, p.Zones, labels)
		a.uplink.SetSetting(f.Name, wire.SettingEnabled, onOff(!s.home().Off))
		if least := s.threshold(); least > 0 {
			a.uplink.SetSetting(f.Name, wire.SettingThreshold, strconv.FormatFloat(float64(least), 'g', 4, 32))
		}
		c.Pipelines = append(c.Pipelines, p)
	}
	a.uplink.SetCapabilities(c)
	if f := a.File.Home; f != nil && f.Discovery == discoveryOff {
		a.uplink.SetDiscovery(uplink.Discovery{})
		return
	}
	found := homeassistant.Announce(homeassistant.Device{HomeCapabilities: c, Page: a.pageURL()})
	a.uplink.SetDiscovery(uplink.Discovery{Document: found.Document, Parts: found.Parts})
}

func onOff(on bool) string {
	if on {
		return "ON"
	}
	return "OFF"
}

// capabilities is what the house can build on.
func (s *station) capabilities() wire.HomePipeline {
	p := wire.HomePipeline{Name: s.file.Name, Task: task.Auto, Zones: []string{}, Labels: []wire.HomeLabel{}, Events: true,
		Image: s.scene.studio.Policy().Allows(picture.Home)}
	p.Zones = append(p.Zones, s.zoneNames()...)
	for _, l := range s.scene.labels() {
		p.Labels = append(p.Labels, wire.HomeLabel{Label: l, Topic: wire.LabelLevel(l)})
	}
	if l, _ := s.working(); l != nil && l.recipe.task != "" {
		p.Task = l.recipe.task
	}
	least, most, step := 0.01, 1.0, 0.01
	p.Settings = []wire.HomeSetting{
		{Name: wire.SettingEnabled, Type: wire.SettingSwitch},
		{Name: wire.SettingThreshold, Type: wire.SettingNumber, Min: &least, Max: &most, Step: &step},
		{Name: wire.SettingInstall, Type: wire.SettingButton},
		{Name: wire.SettingRestart, Type: wire.SettingButton},
	}
	if p.Image {
		p.Settings = append(p.Settings, wire.HomeSetting{Name: wire.SettingSnapshot, Type: wire.SettingButton})
	}
	return p
}

// threshold is the least score that counts now; 0: the model has none, or there is none.
func (s *station) threshold() float32 {
	if l, _ := s.working(); l != nil {
		if t, ok := l.Decoder.(task.Tunable); ok {
			return t.Threshold()
		}
	}
	return s.config().Threshold
}

// SetCount is house's. It is called with the scene's mutex held.
func (a *agent) SetCount(pipeline, zone, label string, n int) {
	if s := a.stations[pipeline]; zone == event.All && s.scene.knows(label) {
		a.uplink.SetCounts(pipeline, s.zoneNames(), s.scene.seen) // else this count would be nobody's
		a.news.Store(true)
	}
	a.uplink.SetCount(pipeline, zone, label, n)
}

// SetImage is house's.
func (a *agent) SetImage(pipeline string, jpeg []byte) { a.uplink.SetImage(pipeline, jpeg) }

// OfferEvent is house's.
func (a *agent) OfferEvent(pipeline string, e *wire.Event) error {
	if e.Type == wire.EventStart {
		a.uplink.SetLast(pipeline, wire.HomeLast{Label: e.Label, Score: e.Score, Zone: e.Zone, TS: e.TS})
	}
	return a.uplink.OfferEvent(pipeline, e)
}

// diagnostics is how the board does, for the house.
func (a *agent) diagnostics(h *wire.Health) wire.HomeDiagnostics {
	d := wire.HomeDiagnostics{Uptime: h.Up, Temperature: h.Temp, Throttled: h.Throttled, CPU: h.CPU, Memory: h.Mem, Disk: h.Disk,
		Outbox: h.Outbox, Lost: h.Lost, Pipelines: map[string]wire.HomePipelineDiagnosis{}}
	for name, p := range h.Pipes {
		one := wire.HomePipelineDiagnosis{FPS: p.FPS, Latency: p.P50, Degraded: p.Degraded}
		if l, _ := a.stations[name].working(); l != nil {
			one.Accelerator = string(l.Info().Accelerator)
		}
		d.Pipelines[name] = one
	}
	return d
}

// drift follows how far what a pipeline sees is from what was usual, over restarts.
func (a *agent) drift(name string) *health.Drift {
	u := a.state.State().Usual[name]
	var usual *sketch.Profile
	if u.Model != "" {
		usual = &u.Profile
	}
	return health.NewDrift(u.Model, usual, func(model string, usual sketch.Profile) {
		u := slots.Usual{Model: model, Profile: usual}
		if err := a.state.Update(func(st slots.State) slots.State { return st.WithUsual(name, u) }); err != nil {
			a.Log.Warn().Err(err).Str("pipeline", name).Msg("what is usual cannot be written")
		}
	})
}

// look is pipeline.Config.Look.
func (s *station) look(f *hal.Frame) *hal.Frame {
	if f.Height > 0 {
		s.aspect.Store(math.Float64bits(float64(f.Width) / float64(f.Height)))
	}
	if s.drift.Due(f.Captured) {
		if light, ok := vision.Brightness(f); ok {
			s.drift.Light(light)
		}
	}
	return s.scene.studio.Look(f)
}

// seen is pipeline.Config.Seen.
func (s *station) seen(r *wire.Result, look *hal.Frame) {
	s.drift.See(r)
	s.scene.see(r, look)
}

func (s *station) zoneNames() (names []string) {
	for _, z := range s.zones() {
		names = append(names, z.Name)
	}
	return names
}

// knows notes that a label is seen; true when that is new. The mutex is held.
func (s *scene) knows(label string) bool {
	if len(s.events.Labels) > 0 || len(s.seen) == wire.MaxHomeLabels || slices.Contains(s.seen, label) {
		return false
	}
	s.seen = append(s.seen, label)
	return true
}

// labels are those that are counted: what the configuration names, or what was seen.
func (s *scene) labels() []string {
	if len(s.events.Labels) > 0 {
		return s.events.Labels
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return slices.Clone(s.seen)
}
