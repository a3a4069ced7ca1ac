// Package uplink carries what a board has to say to its two links and brings in
// what is wished of it: the fleet link to a controller's broker and the home link
// to the house's own, each optional. Results, events and execution steps go
// through an outbox on disk and leave it only when the broker has acknowledged
// them; of everything else only the latest counts. It owns the outbox's file and
// knows no broker: links come in as values.
package uplink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/covey-edge/covey/agent/internal/pulse"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/rs/zerolog"
	bolt "go.etcd.io/bbolt"
)

// Config of an Uplink. Device and Dir are required.
type Config struct {
	Device wire.DeviceID
	Dir    string // folder of the outbox
	// Check is the command of a child process that calls CheckMain with the path
	// that is appended to it, used after an unclean stop; empty leaves the check out.
	Check     []string
	Fleet     *FleetConfig // nil: no fleet link
	Home      *HomeConfig  // nil: no home link
	Pipelines []Pipeline
	Pulse     *pulse.Board // where its loops say that they go on; nil: nobody asks
	Log       zerolog.Logger
}

// FleetConfig is the link to a controller.
type FleetConfig struct {
	Link wire.Link
	// Bulk makes the second connection, <id>~x with a clean session, whenever
	// blocks are needed. Nil: nothing can be fetched.
	Bulk func() wire.Link
	// OtherWay says that there is one for blocks: a fetch that gets no connection in a
	// minute is over with E_TIMEOUT instead of waiting for one.
	OtherWay bool
	Root     string // of the topics; "" is "covey"
	MID      string // hash of the machine's id
	// OnDesired is called when the desired document has changed, never for the same
	// one twice in a row: its bytes, and what they say, which nobody has vouched for.
	// Neither it nor OnFault may block for long.
	OnDesired func(document []byte, d *wire.Desired)
	// OnFault is called when the desired document cannot be used; nil when the next
	// one can.
	OnFault func(*wire.Fault)
}

// HomeConfig is the link to the house's own broker.
type HomeConfig struct {
	Link wire.Link
	Root string // of the topics; "" is "covey"
	// Prefix is what Home Assistant's topics begin with; "" is "homeassistant".
	Prefix string
	// OnSet is called when somebody at home writes a setting: one of wire.Setting…, with
	// ON or OFF, a number in (0,1], the version of an install ("" is whatever waits), or
	// "" of a button. Its error is answered there. It may not block for long. nil: nobody
	// is listened to.
	OnSet func(pipeline, setting, value string) error
}

// A Pipeline that offers results.
type Pipeline struct {
	Name     string
	Lossless bool // its results are never dropped for a full disk: Offer says ErrFull
	Each     bool // each result is written to disk at once, not in groups
}

// An Uplink has both links. Its methods may be used from any goroutine, before
// Run, while it runs, and after it.
type Uplink struct {
	cfg       Config
	box       *outbox
	pipelines map[string]Pipeline
	results   atomic.Pointer[[]string] // pipelines whose results the fleet wants
	events    atomic.Pointer[[]string] // and whose events
	fleet     *fleet                   // nil without
	home      *home                    // nil without
	fetching  chan struct{}            // holds 1: the right to fetch
	bulk      bulk
	rebuilt   string // where a damaged outbox was put

	sidMu    sync.Mutex
	sid      atomic.Uint64
	sidSaved uint64 // numbers up to here are never used again after a restart
}

var limits = [classes]caps{
	classExec:   {4 << 20, 365 * 24 * time.Hour},
	classEvent:  {8 << 20, 30 * 24 * time.Hour},
	classResult: {24 << 20, 7 * 24 * time.Hour},
}

// New opens the outbox, or makes it. A damaged one is put aside and reported by
// Stats. The caller calls Run, which closes it.
func New(cfg Config) (*Uplink, error) {
	f, err := openFile(Path(cfg.Dir), cfg.Check)
	if err != nil {
		return nil, err
	}
	u := &Uplink{cfg: cfg, pipelines: map[string]Pipeline{}, rebuilt: f.aside, fetching: make(chan struct{}, 1)}
	for _, p := range cfg.Pipelines {
		u.pipelines[p.Name] = p
	}
	if f.aside != "" {
		cfg.Log.Error().Str("kept_as", f.aside).Msg("outbox was damaged and is rebuilt")
	}
	if u.box, err = openOutbox(f, cfg.Device, limits, cfg.Log); err == nil {
		err = u.loadMeta()
	}
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	if cfg.Fleet != nil {
		u.fleet = newFleet(u, cfg.Fleet)
	}
	if cfg.Home != nil {
		u.home = newHome(u, cfg.Home)
	}
	return u, nil
}

// loadMeta reads what the fleet asked for, and the connection counter.
func (u *Uplink) loadMeta() error {
	results, events := []string{}, []string{}
	err := u.box.file.view(func(tx *bolt.Tx) error {
		u.sidSaved = getNumber(tx, "sid")
		return errors.Join(getList(tx, "results", &results), getList(tx, "events", &events))
	})
	if u.rebuilt != "" {
		u.sidSaved = max(u.sidSaved, u.box.file.beyond()/1000) // below one connection a second
	}
	u.results.Store(&results)
	u.events.Store(&events)
	u.sid.Store(u.sidSaved)
	return err
}

// Run keeps the links until ctx ends, then says goodbye on them, writes what is
// left and returns. It returns early only with an error that no retry can mend.
func (u *Uplink) Run(ctx context.Context) error {
	writing, stop := context.WithCancel(context.WithoutCancel(ctx))
	var writer, links sync.WaitGroup
	writer.Go(func() { u.box.write(writing, u.cfg.Pulse) })
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	run := func(name string, link func(context.Context) error) {
		links.Go(func() {
			if err := link(ctx); err != nil {
				cancel(fmt.Errorf("%s link: %w", name, err))
			}
		})
	}
	if u.fleet != nil {
		run("fleet", u.fleet.run)
	}
	if u.home != nil {
		run("home", u.home.run)
	}
	<-ctx.Done()
	links.Wait()
	u.bulk.close()
	stop()
	writer.Wait()
	err := u.box.close()
	if cause := context.Cause(ctx); cause != context.Canceled && cause != context.DeadlineExceeded {
		err = errors.Join(cause, err)
	}
	return err
}

// Offer hands over a result of a pipeline. It never blocks, keeps nothing of r,
// and allocates nothing once warm. Seq is given here, so that of r is ignored.
// ErrFull means that it was not taken.
func (u *Uplink) Offer(pipeline string, r *wire.Result) error {
	p, ok := u.pipelines[pipeline]
	if !ok {
		return fmt.Errorf("no pipeline %q", pipeline)
	}
	to := [sides]bool{fleetSide: u.fleet != nil && wanted(&u.results, pipeline), homeSide: u.home != nil}
	return u.box.append(classResult, p.Name, to, p.Lossless, p.Each, func(b []byte) []byte {
		return wire.AppendResultBody(b, r)
	})
}

// Room is closed when Offer may be tried again. Take it before the Offer that fails.
func (u *Uplink) Room() <-chan struct{} { return u.box.waitRoom() }

func wanted(list *atomic.Pointer[[]string], pipeline string) bool {
	l := *list.Load()
	return slices.Contains(l, pipeline) || slices.Contains(l, "*")
}

// OfferEvent hands over an event of a pipeline. It is on disk when OfferEvent returns
// nil, which takes as long as the disk does. On an error it is in memory only, and sent
// all the same, unless the error is ErrFull or the event itself is wrong. V, Pipe, Seq,
// Late and AgeMS are filled in; nothing of e is kept.
func (u *Uplink) OfferEvent(pipeline string, e *wire.Event) error {
	p, ok := u.pipelines[pipeline]
	if !ok {
		return fmt.Errorf("no pipeline %q", pipeline)
	}
	sent := *e
	sent.V, sent.Pipe, sent.Seq, sent.Late, sent.AgeMS = wire.Version, p.Name, 0, false, 0
	if err := sent.Validate(); err != nil {
		return fmt.Errorf("event %s of %s: %w", e.ID, p.Name, err)
	}
	to := [sides]bool{fleetSide: u.fleet != nil && wanted(&u.events, pipeline), homeSide: u.home != nil}
	if to == [sides]bool{} {
		return nil
	}
	err := u.box.append(classEvent, p.Name, to, false, true, func(b []byte) []byte { return wire.AppendEventBody(b, &sent) })
	if err != nil {
		return fmt.Errorf("event %s of %s: %w", e.ID, p.Name, err)
	}
	return u.box.commitDue()
}

// Step hands over a step of an execution. It is on disk when Step returns nil.
// On an error it is in memory only, and sent all the same, unless the error is
// ErrFull. V, ID and Seq are filled in.
func (u *Uplink) Step(s wire.ExecStep) error {
	if u.fleet == nil {
		return nil
	}
	s.V, s.ID = wire.Version, fmt.Sprintf("%s/%s/%d", u.cfg.Device, s.Execution, s.N)
	b, err := json.Marshal(struct { // without seq: it is put in front when it is sent
		wire.ExecStep
		Seq *uint64 `json:"seq,omitempty"`
	}{ExecStep: s})
	if err != nil {
		return err
	}
	err = u.box.append(classExec, s.Execution, [sides]bool{fleetSide: true}, true, true, func(dst []byte) []byte { return append(dst, b...) })
	if err != nil {
		return fmt.Errorf("step %s of execution %s: %w", s.State, s.Execution, err)
	}
	return u.box.commitDue()
}

// SetHello replaces the birth message. SID and TS are filled in.
func (u *Uplink) SetHello(h wire.Hello) {
	if u.fleet != nil {
		u.fleet.setHello(h)
	}
}

// SetReported replaces the reported document. SID and TS are filled in.
func (u *Uplink) SetReported(r wire.Reported) {
	if u.fleet != nil {
		u.fleet.setReported(r)
	}
}

// SetHealth sends a health message, or nothing while the link is down.
func (u *Uplink) SetHealth(h wire.Health) {
	if u.fleet != nil {
		u.fleet.setHealth(h)
	}
}

// SetAvailable says on the home link whether a pipeline works.
func (u *Uplink) SetAvailable(pipeline string, yes bool) {
	if u.home != nil {
		u.home.setAvailable(pipeline, yes)
	}
}

// SetModel says on the home link which model a pipeline has, and which it might get.
func (u *Uplink) SetModel(pipeline string, m wire.HomeModel) {
	if u.home != nil {
		u.home.setOf(pipeline, u.home.topics.Model(pipeline), 1, encode(m))
	}
}

// SetCapabilities says on the home link what a consumer can build on. V and Device are
// filled in.
func (u *Uplink) SetCapabilities(c wire.HomeCapabilities) {
	if u.home != nil {
		c.V, c.Device = wire.Version, u.cfg.Device
		u.home.set(u.home.topics.Capabilities(), 1, encode(wholeCapabilities(c)))
	}
}

// SetDiscovery tells Home Assistant of this board. Components that it was told of, in
// this life or an earlier one, and that are not in the new document are removed there.
// An agent that does not want to be found calls it as well, with Discovery{}. The
// document is asked for from another goroutine, and must not be changed.
func (u *Uplink) SetDiscovery(d Discovery) {
	if u.home != nil {
		u.home.setDiscovery(d)
	}
}

// SetCounts says which labels of a pipeline are counted, in which zones and in all of
// the picture: at most wire.MaxHomeLabels and MaxHomeZones, what is beyond is left out.
// New counts are 0; those that are no longer there, since this life or an earlier one,
// are cleared at the broker.
func (u *Uplink) SetCounts(pipeline string, zones, labels []string) {
	if u.home != nil {
		u.home.setCounts(pipeline, zones, labels)
	}
}

// Labels are those that were last given to SetCounts for a pipeline, in this life or an
// earlier one.
func (u *Uplink) Labels(pipeline string) []string {
	if u.home == nil {
		return nil
	}
	u.home.mu.Lock()
	defer u.home.mu.Unlock()
	return slices.Clone(u.home.memory.Labels[pipeline])
}

// SetCount says how many of a label there are in a zone, or in wire.ZoneAll. One that
// SetCounts has not named is ignored. It allocates nothing where nothing has changed.
func (u *Uplink) SetCount(pipeline, zone, label string, n int) {
	if u.home != nil {
		u.home.setCount(pipeline, zone, label, n)
	}
}

// SetLast says what a pipeline has recognised last. V is filled in.
func (u *Uplink) SetLast(pipeline string, l wire.HomeLast) {
	if u.home != nil {
		l.V, l.Score = wire.Version, float32(finite(float64(l.Score)))
		u.home.setOf(pipeline, u.home.topics.Last(pipeline), 0, encode(l))
	}
}

// SetImage shows a picture of a pipeline, a JPEG of at most wire.MaxHomeImage bytes that
// must not be changed any more; nil takes it back. Until the first call of a life none is
// shown.
func (u *Uplink) SetImage(pipeline string, jpeg []byte) {
	if u.home != nil {
		u.home.setImage(pipeline, jpeg)
	}
}

// SetSetting says where a setting of a pipeline stands: wire.SettingEnabled, ON or OFF, or
// wire.SettingThreshold.
func (u *Uplink) SetSetting(pipeline, setting, value string) {
	if u.home != nil {
		u.home.setSetting(pipeline, setting, value)
	}
}

// SetDiagnostics says how the board does. V is filled in.
func (u *Uplink) SetDiagnostics(d wire.HomeDiagnostics) {
	if u.home != nil {
		d.V = wire.Version
		u.home.set(u.home.topics.Diagnostics(), 0, encode(wholeDiagnostics(d)))
	}
}

// SID counts the connections of the fleet link, over restarts.
func (u *Uplink) SID() uint64 { return u.sid.Load() }

func (p *pump) isUp() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.up
}

// sidBlock is how many connection counts are reserved on disk at once.
const sidBlock = 32

// nextSID counts one more connection.
func (u *Uplink) nextSID() uint64 {
	u.sidMu.Lock()
	defer u.sidMu.Unlock()
	n := u.sid.Load() + 1
	if n > u.sidSaved {
		if err := u.box.file.update(func(tx *bolt.Tx) error { return putNumber(tx, "sid", n+sidBlock) }); err != nil {
			u.cfg.Log.Error().Err(err).Msg("connection counter cannot be written")
		} else {
			u.sidSaved = n + sidBlock
		}
	}
	u.sid.Store(n)
	return n
}

// SetResults keeps which results the fleet wants ("*" is all pipelines'), for the next
// start too.
func (u *Uplink) SetResults(pipelines []string) { u.setWanted(&u.results, "results", pipelines) }

// SetEvents is SetResults for events.
func (u *Uplink) SetEvents(pipelines []string) { u.setWanted(&u.events, "events", pipelines) }

func (u *Uplink) setWanted(list *atomic.Pointer[[]string], name string, pipelines []string) {
	if slices.Equal(pipelines, *list.Load()) {
		return
	}
	pipelines = slices.Clone(pipelines)
	list.Store(&pipelines)
	if err := u.box.file.update(func(tx *bolt.Tx) error { return putList(tx, name, pipelines) }); err != nil {
		u.cfg.Log.Error().Err(err).Str("list", name).Msg("what the fleet asks for cannot be written")
	}
}

// diskTime is how long a disk may take: a worn card is busy with itself for many seconds
// now and then, and starting again does not mend it.
const diskTime = 2 * time.Minute

// lastWords runs a link until ctx ends or leave is closed; then goodbye names a
// document, which gets a moment to arrive.
func lastWords(ctx context.Context, p *pump, s wire.Spec, board *pulse.Board, leave <-chan struct{}, goodbye func() *doc) error {
	if receive := s.Receive; receive != nil {
		loop := board.Loop(p.side.String() + " link inbox")
		defer loop.End()
		loop.Rest(0) // nobody may ever say anything
		s.Receive = func(m wire.Message) error {
			loop.Beat()
			loop.Do("takes in a message", diskTime)
			defer loop.Rest(0)
			return receive(m)
		}
	}
	linked, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	ended := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { ended <- p.link.Run(linked, s) })
	wg.Go(func() { p.run(linked, board) })
	defer wg.Wait()
	defer cut()
	select {
	case err := <-ended:
		return err
	case <-leave:
	case <-ctx.Done():
	}
	d := goodbye()
	patience := time.NewTimer(2 * time.Second)
	defer patience.Stop()
	for p.isUp() && !p.settled(d) {
		select {
		case <-patience.C:
			return nil
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}
