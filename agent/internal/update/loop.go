package update

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent/internal/pulse"
	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// Config is what a Loop works with. What comes behind Log may be left out.
type Config struct {
	Device    wire.DeviceID
	Pipelines []wire.HelloPipeline // a pinned one is never touched
	Board     func() release.Board // asked when a variant is picked
	State     *slots.Store
	Blobs     *blob.Store
	Fetcher   Fetcher
	Installer Installer
	Steps     Steps
	Log       zerolog.Logger

	// Floor is when this program was built: it cannot be earlier than that,
	// whatever a board's clock says.
	Floor time.Time
	// Probation is passed after Results good ones or Window without a failure at
	// its end; 0 means 20 and 30 s.
	ProbationResults int
	ProbationWindow  time.Duration
	// Running is the releases that run when the loop starts, by pipeline: of those that
	// cannot be exchanged without starting again.
	Running map[string]wire.Digest
	// Changed is called whenever Reported has something new. It may not block.
	Changed func()
	// Voucher says which releases may run; nil: the fleet's word is enough.
	Voucher Voucher
	// Vitals of the model at work in a pipeline; nil: nothing is known of it.
	Vitals func(pipeline string) Vitals
	// Temperature of the board, °C; nil, or a nil answer: not known.
	Temperature func() *float64
	// Pulse is where each pipeline's loop says that it goes on; nil: nobody asks.
	Pulse *pulse.Board
}

// A Loop keeps every pipeline on its way to the desired release.
type Loop struct {
	c        Config
	journeys map[string]*journey
	fetching chan struct{} // one download at a time: the link is one
	testing  chan struct{} // one self-test at a time: memory is one

	mu    sync.Mutex         // guards what follows
	trust *wire.DesiredTrust // of the last document
	fault *wire.Fault        // about the desired document itself
	rev   uint64             // of the last one that was taken in since the start
}

// New makes a Loop; Run starts it.
func New(c Config) *Loop {
	if c.ProbationResults == 0 {
		c.ProbationResults = 20
	}
	if c.ProbationWindow == 0 {
		c.ProbationWindow = 30 * time.Second
	}
	if c.Changed == nil {
		c.Changed = func() {}
	}
	if c.Vitals == nil {
		c.Vitals = func(string) Vitals { return Vitals{} }
	}
	if c.Temperature == nil {
		c.Temperature = func() *float64 { return nil }
	}
	l := &Loop{c: c, journeys: map[string]*journey{}, fetching: make(chan struct{}, 1), testing: make(chan struct{}, 1)}
	for _, p := range c.Pipelines {
		l.journeys[p.Name] = newJourney(l, p)
	}
	return l
}

// Run keeps at it until ctx ends. What runs in the pipelines then keeps running:
// it belongs to the Installer. While the state cannot be written nothing moves,
// and it is tried every second. Run is called once.
func (l *Loop) Run(ctx context.Context) {
	if note := l.c.State.Note(); note != nil {
		l.c.Log.Error().Err(note).Msg("state mended")
		l.complain(FaultOf(note))
	}
	if l.c.Floor.After(l.c.State.State().Floor) {
		if err := l.c.State.Update(func(s slots.State) slots.State { s.Floor = l.c.Floor; return s }); err != nil {
			l.c.Log.Error().Err(err).Msg("time floor not saved")
		}
	}
	var wg sync.WaitGroup
	for _, j := range l.journeys {
		wg.Go(func() { j.run(ctx) })
	}
	wg.Wait()
}

// Desire takes in a desired document. The error says why it is refused; it is
// reported, too, and what was wanted before stays. The same document again is
// no error, nor is a disk that does not take it. Safe for any goroutine; it may wait for the disk.
func (l *Loop) Desire(d wire.Desired) error {
	if err := l.check(d.Signed); err != nil {
		l.complain(FaultOf(err))
		return err
	}
	// A disk that refuses the revision now gets it with the next step: the document
	// does not come again.
	var unknown *wire.Fault
	if l.raise(d.Signed.Rev); d.Signed.Rev > l.c.State.State().Rev {
		if err := l.c.State.Update(l.latest); err != nil {
			l.c.Log.Error().Err(err).Uint64("rev", d.Signed.Rev).Msg("state not saved")
			unknown = FaultOf(err)
		}
	}
	for name := range d.Signed.Pipelines {
		if l.journeys[name] == nil {
			unknown = fault(hal.CodePipeline, "no pipeline %.40q on this board: it has %s", name, l.names())
		}
	}
	l.complain(unknown)
	l.mu.Lock()
	l.trust = d.Signed.Trust
	l.mu.Unlock()
	for name, j := range l.journeys {
		if r, ok := d.Signed.Pipelines[name]; ok {
			j.want(Want{Known: true, Release: &r})
		} else {
			j.want(Want{Known: true})
		}
	}
	return nil
}

// Refuse says why a desired document was not taken in: it is reported.
func (l *Loop) Refuse(err error) { l.complain(FaultOf(err)) }

// FetchBlob is a blob that the controller has, fetched unless it is here. It waits while
// there is no link. What was fetched so before goes: nobody has vouched for it yet, and
// there is no end of what somebody may say that it is signed.
func (l *Loop) FetchBlob(ctx context.Context, sha wire.Digest, length int64) ([]byte, error) {
	if !lock(ctx, l.fetching) {
		return nil, context.Cause(ctx)
	}
	defer unlock(l.fetching)
	keep := map[wire.Digest]bool{sha: true}
	if _, err := l.have(ctx, file{sha: sha, length: length}); err != nil {
		if hal.CodeOf(err) == hal.CodeDiskFull {
			l.collect(keep) // for the next try
		}
		return nil, err
	}
	l.sweep(keep)
	return l.c.Blobs.Read(sha, length)
}

// raise notes a revision that was taken in.
func (l *Loop) raise(rev uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rev = max(l.rev, rev)
}

// latest is a state with the last revision that was taken in.
func (l *Loop) latest(s slots.State) slots.State {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Rev = max(s.Rev, l.rev)
	return s
}

// maxLeap is how far a revision may be ahead of the last: no controller counts so many,
// and one whose key was stolen is not locked out for ever by a last one of the thief's.
const maxLeap = 1 << 32

// check refuses a document that is not for this board, or older than one that
// was taken in, or not whole.
func (l *Loop) check(d wire.DesiredSigned) error {
	have := l.latest(l.c.State.State()).Rev
	switch {
	case d.V != wire.Version:
		return &hal.Error{Code: hal.CodeJSON, Text: fmt.Sprintf("desired document has v %d, this agent reads v %d: update it", d.V, wire.Version)}
	case d.Device != l.c.Device:
		return &hal.Error{Code: hal.CodeTarget, Text: fmt.Sprintf("desired document is for %.40q, this is %s", string(d.Device), l.c.Device)}
	case !d.Expires.IsZero() && d.Expires.Before(l.Now()):
		return &hal.Error{Code: hal.CodeExpired, Text: fmt.Sprintf("desired document expired %s; what runs goes on", d.Expires.UTC().Format(time.RFC3339))}
	case d.Rev < have:
		return &hal.Error{Code: hal.CodeRollback, Text: fmt.Sprintf("offered desired rev %d, have %d: the controller must count on from there", d.Rev, have)}
	case d.Rev-have > maxLeap:
		return &hal.Error{Code: hal.CodeRollback, Text: fmt.Sprintf("offered desired rev %d, have %d: that would use up the revisions, the controller must count on from there", d.Rev, have)}
	}
	for name, r := range d.Pipelines {
		switch {
		case !wire.ValidDigest(string(r.Release)) || !wire.ValidID(r.Execution) || !wire.ValidID(name):
			return &hal.Error{Code: hal.CodeJSON, Text: fmt.Sprintf("desired release or execution of pipeline %.40q is not an id", name)}
		case r.Length < 1 || r.Length > release.MaxManifest:
			return &hal.Error{Code: hal.CodeLength, Text: fmt.Sprintf("manifest of %d bytes for pipeline %.40q: the limit is %d", r.Length, name, release.MaxManifest)}
		case len(r.Name) > 64 || len(r.Version) > 64 || len(r.Mode) > 64:
			return &hal.Error{Code: hal.CodeJSON, Text: fmt.Sprintf("name, version or mode of pipeline %.40q is too long", name)}
		}
	}
	return nil
}

// Now is the time, but not before the floor: boards without a battery start in 1970.
func (l *Loop) Now() time.Time {
	now := time.Now()
	if f := l.c.State.State().Floor; now.Before(f) {
		return f
	}
	return now
}

// clockOK says whether the board's clock can be right: it never is before the floor,
// nor in the year in which a board without a battery begins.
func (l *Loop) clockOK() bool {
	now := time.Now()
	return now.Year() > 1970 && !now.Before(l.c.State.State().Floor)
}

// trusted names what people have signed last, nil where nobody signs.
func (l *Loop) trusted() *wire.DesiredTrust {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.trust
}

// complain sets what Reported says about the desired document.
func (l *Loop) complain(f *wire.Fault) {
	l.mu.Lock()
	l.fault = f
	l.mu.Unlock()
	l.c.Changed()
}

func (l *Loop) names() string {
	var names []string
	for _, p := range l.c.Pipelines {
		names = append(names, p.Name)
	}
	return fmt.Sprintf("%.200s", fmt.Sprint(names))
}

// Note tells how a run of a release's model went. It costs a lock, and allocates
// nothing while all is well.
func (l *Loop) Note(pipeline string, release wire.Digest, r Run) {
	if j := l.journeys[pipeline]; j != nil && release != "" {
		j.note(release, r)
	}
}

// Reported is the reported document as it stands; SID and TS are the caller's.
func (l *Loop) Reported() wire.Reported {
	s := l.latest(l.c.State.State())
	l.mu.Lock()
	f := l.fault
	l.mu.Unlock()
	r := wire.Reported{V: wire.Version, Rev: s.Rev, Pipelines: map[string]wire.ReportedPipeline{},
		Quarantine: slices.Clone(s.Quarantine[max(0, len(s.Quarantine)-reportedQuarantine):]), Error: f}
	for name, j := range l.journeys {
		p := s.Pipelines[name]
		rp := wire.ReportedPipeline{Active: p.Active.Reported(), Previous: p.Previous.Reported(), Candidate: p.Candidate.Reported(),
			Pinned: j.pinned}
		rp.Accelerator, rp.Refused, rp.Fault = j.seen()
		if e := p.Exec; e != nil {
			rp.Execution, rp.State, rp.Evidence = e.Want.Execution, e.State, e.Evidence
			if e.Fault != nil {
				rp.Fault = e.Fault
			}
		}
		r.Pipelines[name] = rp
	}
	return r
}

// sweep is collect when nothing is on its way here: what was received of it is in no
// slot. The caller has the turn to fetch, so that nothing sets out meanwhile.
func (l *Loop) sweep(keep map[wire.Digest]bool) {
	s := l.c.State.State()
	for name := range l.journeys {
		if p := s.Pipelines[name]; !p.Over() && p.Candidate == nil {
			return
		}
	}
	l.collect(keep)
}

// collect removes blobs that no slot needs and logs what that brought.
func (l *Loop) collect(keep map[wire.Digest]bool) {
	freed, err := l.c.State.Collect(l.c.Blobs, keep)
	if err != nil || freed > 0 {
		l.c.Log.Info().Err(err).Int64("bytes", freed).Msg("blobs collected")
	}
}

// reportedQuarantine is how many failed releases are reported, the last ones:
// the document is small.
const reportedQuarantine = 8

// errChanged ends an effect because something else is wanted now.
var errChanged = errors.New("something else is wanted")

// errShut ends a download whose window closes.
var errShut = errors.New("the window closed")

// errTooLong ends an effect because the execution took too long.
var errTooLong = errors.New("the execution took too long")
