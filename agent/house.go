package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/covey-edge/covey/agent/internal/event"
	"github.com/covey-edge/covey/agent/internal/pulse"
	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/task"
)

// An origin is who has set something: the precedence of all settings, the first counts.
type origin string

const (
	fromFile    origin = "file"
	fromFleet   origin = "fleet"
	fromHome    origin = "home"
	fromDefault origin = "default"
)

// of is who has set a thing, from whether the board's file has it, the configuration
// with the fleet's part, and the house.
func originOf(file, config, home bool) origin {
	switch {
	case file:
		return fromFile
	case config:
		return fromFleet
	case home:
		return fromHome
	}
	return fromDefault
}

// pinned refuses to change at home what counts more; nil where the house may.
func (o origin) pinned(what string) error {
	switch o {
	case fromFile:
		return &hal.Error{Code: hal.CodeConfig, Text: "the board's configuration sets " + what + ": change it there, or take it out there"}
	case fromFleet:
		return &hal.Error{Code: hal.CodeConfig, Text: "the fleet sets " + what + " of this board: ask its operator"}
	}
	return nil
}

// origins are who has set what of a station.
type origins struct{ threshold, zones, masks origin }

// origins of a station's settings.
func (a *agent) origins(s *station) origins {
	local, home := PipelineFile{}, s.home()
	for _, p := range a.settings.local.Pipelines {
		if p.Name == s.file.Name {
			local = p
		}
	}
	return origins{
		threshold: originOf(local.Threshold != 0, s.file.Threshold != 0, home.Threshold != 0),
		zones:     originOf(local.Zones != nil, s.file.Zones != nil, home.Zones != nil),
		masks:     originOf(local.Masks != nil, s.file.Masks != nil, home.Masks != nil),
	}
}

// set does what somebody at home wants of a pipeline. Errors are E_PIPELINE, E_CONFIG
// (what it is said to be it cannot be, or not from here), E_PRIVACY, E_CONSENT, or the
// disk's; then nothing has changed.
func (a *agent) set(pipeline, setting, value string) error {
	s := a.stations[pipeline]
	if s == nil {
		return &hal.Error{Code: hal.CodePipeline, Text: fmt.Sprintf("no pipeline %.40q on this board", pipeline)}
	}
	switch setting {
	case wire.SettingEnabled:
		switch value {
		case "ON", "OFF":
			return a.keep(s, func(h *slots.Home) { h.Off = value == "OFF" })
		}
		return &hal.Error{Code: hal.CodeConfig, Text: "enabled is ON or OFF"}
	case wire.SettingThreshold:
		least, err := strconv.ParseFloat(value, 32)
		if err != nil || !(least > 0 && least <= 1) {
			return &hal.Error{Code: hal.CodeConfig, Text: "threshold is a number above 0, and 1 at the most"}
		}
		if err := a.origins(s).threshold.pinned("the threshold"); err != nil {
			return err
		}
		return a.keep(s, func(h *slots.Home) { h.Threshold = float32(least) })
	case wire.SettingInstall:
		return a.loop.Install(pipeline, value)
	case wire.SettingRestart:
		poke(s.again)
		return nil
	case wire.SettingSnapshot:
		return s.scene.shoot()
	}
	return &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("%.40q is not a setting of a pipeline: enabled, threshold, install, restart, snapshot", setting)}
}

// draw makes other zones and masks of a pipeline. What is nil stays as it is. Errors are
// those of set.
func (a *agent) draw(pipeline string, zones []slots.Zone, masks [][][2]float32) error {
	s := a.stations[pipeline]
	if s == nil {
		return &hal.Error{Code: hal.CodePipeline, Text: fmt.Sprintf("no pipeline %.40q on this board", pipeline)}
	}
	who := a.origins(s)
	var refused []error
	if zones != nil {
		refused = append(refused, who.zones.pinned("the zones"), checkZones(zones))
	}
	if masks != nil {
		refused = append(refused, who.masks.pinned("the masks"), checkMasks(masks))
	}
	if err := errors.Join(refused...); err != nil {
		return err
	}
	return a.keep(s, func(h *slots.Home) {
		if zones != nil {
			h.Zones = zones
		}
		if masks != nil {
			h.Masks = masks
		}
	})
}

func checkZones(zones []slots.Zone) error {
	names := map[string]bool{}
	for _, z := range zones {
		if err := checkPolygon("zone "+z.Name, z.Corners); err != nil {
			return err
		}
		if !wire.ValidZone(z.Name) || names[z.Name] {
			return &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("no zone can be called %.40q: 1 to 32 of a-z, 0-9 and -, each once, and no topic of the pipeline", z.Name)}
		}
		names[z.Name] = true
	}
	if len(zones) > maxZones {
		return &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("%d zones, the limit is %d", len(zones), maxZones)}
	}
	return nil
}

func checkMasks(masks [][][2]float32) error {
	for _, m := range masks {
		if err := checkPolygon("a mask", m); err != nil {
			return err
		}
	}
	if len(masks) > maxZones {
		return &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("%d masks, the limit is %d", len(masks), maxZones)}
	}
	return nil
}

func checkPolygon(what string, corners [][2]float32) error {
	if len(corners) < 3 || len(corners) > maxCorners {
		return &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("%.60s has %d corners, want 3 to %d", what, len(corners), maxCorners)}
	}
	for _, c := range corners {
		for _, v := range c {
			if !(v >= 0 && v <= 1) {
				return &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("%.60s has a corner outside of the picture, which is 0 to 1", what)}
			}
		}
	}
	return nil
}

// keep writes what is set at home down, and then does it.
func (a *agent) keep(s *station, change func(*slots.Home)) error {
	a.setting.Lock()
	defer a.setting.Unlock()
	h := s.home()
	change(&h)
	if err := a.state.Update(func(st slots.State) slots.State { return st.WithHome(s.file.Name, h) }); err != nil {
		return err
	}
	s.apply(h)
	a.news.Store(true)
	return nil
}

// home is what people at home have set of a station.
func (s *station) home() slots.Home {
	if h := s.wishes.Load(); h != nil {
		return *h
	}
	return slots.Home{}
}

// apply does what is set at home, where nothing counts more.
func (s *station) apply(h slots.Home) {
	before := s.home()
	s.wishes.Store(&h)
	if h.Off {
		s.pipe.Pause()
	} else {
		s.pipe.Resume()
	}
	s.tune()
	s.pipe.SetMask(s.masks())
	if fmt.Sprint(before.Zones) != fmt.Sprint(h.Zones) {
		s.scene.watch(s.zones())
	}
}

// config is the pipeline as it is to run: with what the house has set.
func (s *station) config() PipelineFile {
	p := s.file
	if p.Threshold == 0 {
		p.Threshold = s.home().Threshold
	}
	return p
}

// tune gives the threshold to the model at work.
func (s *station) tune() {
	l, _ := s.working()
	if l == nil {
		return
	}
	if t, ok := l.Decoder.(task.Tunable); ok {
		t.SetThreshold(cmp.Or(s.config().Threshold, l.least))
	}
}

// zones are those that count.
func (s *station) zones() []event.Zone {
	var zones []event.Zone
	for _, z := range s.file.Zones {
		zones = append(zones, event.Zone(z))
	}
	if s.file.Zones == nil {
		for _, z := range s.home().Zones {
			zones = append(zones, event.Zone(z))
		}
	}
	return zones
}

// masks are those that count.
func (s *station) masks() [][][2]float32 {
	if s.file.Masks != nil {
		return s.file.Masks
	}
	return s.home().Masks
}

// restarts closes the source and opens it again, and the model likewise, whenever
// somebody says so.
func (s *station) restarts(ctx context.Context, loop *pulse.Loop) {
	defer loop.End()
	for {
		loop.Beat()
		select {
		case <-s.again:
			loop.Rest(0) // engines have limits of their own
			err := s.restart(ctx)
			s.open.log.Info().Err(err).Str("pipeline", s.file.Name).Msg("restarted from home")
		case <-loop.Pulse():
		case <-ctx.Done():
			return
		}
	}
}

func (s *station) restart(ctx context.Context) error {
	if !s.pipe.Paused() {
		s.pipe.Pause()
		s.pipe.Resume()
	}
	s.switching.Lock() // else an update's model could be replaced by the one before it
	defer s.switching.Unlock()
	m, err := s.reopen(ctx)
	if err != nil {
		return err
	}
	if err := s.pipe.Swap(ctx, m); err != nil {
		return errors.Join(err, m.Session.Close())
	}
	return nil
}
