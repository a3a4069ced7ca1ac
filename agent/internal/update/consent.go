package update

import (
	"fmt"

	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// Install is the house's word for what the fleet wants of a pipeline; version (may be
// "") is the one that it means. When Install returns nil, the word is on the disk and
// counts for that release alone. Errors: E_CONSENT, E_PIPELINE, or the disk's.
func (l *Loop) Install(pipeline, version string) error {
	j := l.journeys[pipeline]
	if j == nil {
		return &hal.Error{Code: hal.CodePipeline, Text: fmt.Sprintf("no pipeline %.40q on this board: it has %s", pipeline, l.names())}
	}
	var refused error
	err := j.save(func(s slots.State) slots.State {
		p := s.Pipelines[pipeline]
		if refused = asks(p, version); refused != nil {
			return s
		}
		p.Consented = p.Exec.Want.Release
		return s.With(pipeline, p)
	})
	if refused != nil {
		return refused
	}
	if err == nil {
		j.log.Info().Str("release", string(j.pipeline().Consented)).Msg("the house says install")
		j.poke()
		l.c.Changed()
	}
	return err
}

// asks says why a word of the house is not waited for; nil when it is, or was.
func asks(p slots.Pipeline, version string) error {
	if p.Over() || !p.Exec.Want.Consent || p.Exec.Want.Mode != wire.ModeActivate {
		return &hal.Error{Code: hal.CodeConsent, Text: "nothing waits for a word from here"}
	}
	if w := p.Exec.Want; version != "" && version != w.Version && version != offered(w) {
		return &hal.Error{Code: hal.CodeConsent, Text: fmt.Sprintf("what waits is %s, not %.80q", offered(w), version)}
	}
	return nil
}

// offered is a release as the house reads it. With its digest it is never taken for
// what runs, nor for something older that need not be installed.
func offered(w wire.DesiredRelease) string {
	return fmt.Sprintf("%s (%s)", w.Version, w.Release[:min(8, len(w.Release))])
}

// Model is what the house sees of a pipeline's model.
func (l *Loop) Model(pipeline string) wire.HomeModel {
	p := l.c.State.State().Pipelines[pipeline]
	m := wire.HomeModel{Installed: "none"}
	if p.Active != nil {
		m.Title, m.Installed = p.Active.Name, p.Active.Version
	}
	m.Latest = m.Installed
	e := p.Exec
	switch {
	case e == nil:
	case p.Over() && e.Fault != nil:
		m.Summary = clip(fmt.Sprintf("%s %s: %s, %s: %s", e.Want.Name, e.Want.Version, e.State.Word(), e.Fault.Code, e.Fault.Text))
	case p.Over() || e.Fault != nil || e.Want.Mode != wire.ModeActivate:
	default:
		m.Title, m.Latest = e.Want.Name, offered(e.Want)
		m.InProgress = unasked(p) == "" && !waits(e.State)
		m.Summary = fmt.Sprintf("%s %s: %s", e.Want.Name, e.Want.Version, e.State.Word())
		if e.State == wire.WaitingConsent {
			m.Summary += " for install"
		}
		if j := l.journeys[pipeline]; j != nil && m.InProgress && e.State == wire.Downloading {
			percent := j.far()
			m.Percent = &percent
		}
	}
	return m
}
