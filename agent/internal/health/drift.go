package health

import (
	"sync"
	"time"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal/sketch"
)

const (
	// pace is the time between two frames that are looked at: one after the other shows
	// the same.
	pace = time.Second
	// enough looks make a day: a board that was off for most of it has seen too little.
	enough = 1000
)

// Drift says how far what a pipeline is shown, and what its model says, is from what
// was usual in the model's first day: what a camera sees differs with the hour, so that
// less than a day would find the evening every day. It is one pipeline's; any goroutine may use it.
type Drift struct {
	mutex     sync.Mutex
	model     string          // that the following is of
	usual     *sketch.Profile // of its first day; nil: that is not over
	today     sketch.Profile
	light     float64 // of the frame that comes next
	lit       bool
	since     time.Time // of today
	last      time.Time // look
	drift     *wire.Drift
	reference func(model string, usual sketch.Profile) // told once it is known
}

// NewDrift makes a Drift. usual (may be nil) is what a first day of model has shown, in
// an earlier life; reference is told of another one, to be kept.
func NewDrift(model string, usual *sketch.Profile, reference func(model string, usual sketch.Profile)) *Drift {
	return &Drift{model: model, usual: usual, reference: reference}
}

// Due says whether the frame of a time is to be looked at.
func (d *Drift) Due(at time.Time) bool {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	return at.Sub(d.last) >= pace || at.Before(d.last)
}

// Light takes in how bright a frame is whose result follows.
func (d *Drift) Light(light float64) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.light, d.lit = light, true
}

// See takes in a result.
func (d *Drift) See(r *wire.Result) {
	d.mutex.Lock()
	tell := d.see(r)
	d.mutex.Unlock()
	if tell != nil {
		d.reference(r.Model.SHA, *tell)
	}
}

// see returns what is usual, once that is known.
func (d *Drift) see(r *wire.Result) *sketch.Profile {
	at := r.TS
	if since := at.Sub(d.last); since < pace && since >= 0 && r.Model.SHA == d.model {
		return nil
	}
	if r.Model.SHA != d.model {
		d.model, d.usual, d.drift = r.Model.SHA, nil, nil
		d.begin(at)
	}
	// A clock that was set makes no day longer or shorter than it was, but by the jump.
	if gap := at.Sub(d.last); d.last.IsZero() || gap < 0 || gap > day {
		d.begin(at)
	}
	d.last = at
	if d.lit {
		d.today.Light.Add(d.light)
		d.lit = false
	}
	if len(r.Items) == 0 {
		d.today.Empty++
	} else {
		d.today.Scores.Add(float64(r.Items[0].Score))
		d.today.Labels.Add(r.Items[0].Label)
	}
	if at.Sub(d.since) < day {
		return nil
	}
	return d.end(at)
}

func (d *Drift) begin(at time.Time) { d.today, d.since = sketch.Profile{}, at }

// end ends a day.
func (d *Drift) end(at time.Time) *sketch.Profile {
	today := d.today
	d.begin(at)
	switch {
	case today.Scores.N()+today.Empty < enough:
		return nil
	case d.usual == nil:
		d.usual = &today
		return d.usual
	}
	far := today.From(d.usual)
	d.drift = &wire.Drift{Light: far.Light, Scores: far.Scores, Labels: far.Labels}
	return nil
}

// Last is how far the last whole day was from what is usual; nil where that is not
// known.
func (d *Drift) Last() *wire.Drift {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	return d.drift
}
