// Package agent puts the rooms of a board's agent together: it owns every
// goroutine, and knows sources, engines, links and the file system only as values
// that it was given. So a simulated board is the real agent with other values.
package agent

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent/internal/health"
	"github.com/covey-edge/covey/agent/internal/local"
	"github.com/covey-edge/covey/agent/internal/picture"
	"github.com/covey-edge/covey/agent/internal/pipeline"
	"github.com/covey-edge/covey/agent/internal/pulse"
	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/agent/internal/update"
	"github.com/covey-edge/covey/agent/internal/uplink"
	"github.com/covey-edge/covey/firmware"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// Config of an agent. All but the links, CheckOutbox, Doctor, TrustRoot, Floor, Root, Pulse
// and Standing is required.
type Config struct {
	File      *File
	Device    wire.DeviceID
	Version   string
	FS        blob.FS
	Engines   []hal.Engine
	Source    func(context.Context, SourceFile) (hal.Source, error)
	Fleet     *FleetLink // nil: no controller
	Home      wire.Link  // nil: no house
	Board     firmware.Board
	Root      fs.FS     // of the board, for its gauges; nil: none are read
	TrustRoot string    // fingerprint of those who sign releases; "": the fleet's word is enough
	Floor     time.Time // when the program was made: it cannot be earlier; zero: not known
	// Doctor looks at the board for the page; nil: nobody does.
	Doctor func(context.Context) ([]hal.Diagnosis, error)
	// Pulse is where its loops say that they go on; nil: nobody asks.
	Pulse *pulse.Board
	// Standing is told every second how the agent stands; may be nil, and may not block.
	Standing func(Standing)
	// InMemory says that the data folder is one in memory, because the board's disk cannot
	// be written. It is told in health and on the page.
	InMemory bool
	// CheckOutbox is the command that ends in CheckOutbox; see there.
	CheckOutbox []string
	Log         zerolog.Logger
}

// FleetLink is the way to a controller.
type FleetLink struct {
	Link        wire.Link
	Bulk        func() wire.Link // makes the second connection, for blocks
	Root        string           // of the topics
	MachineID   string           // tells two boards with one identity apart
	CertExpires time.Time

	API string             // https://host:port of the controller's REST API; "": files come over MQTT alone
	TLS func() *tls.Config // for it, with the board's certificate
}

// An agent is Run's own.
type agent struct {
	Config
	uplink   *uplink.Uplink
	loop     *update.Loop
	director *director
	settings *settings
	state    *slots.Store
	stations stations
	album    *picture.Album
	changed  chan struct{} // 1: the reported document has something new
	setting  sync.Mutex    // one thing is set at home at a time
	told     atomic.Uint64 // events
	started  time.Time
	health   atomic.Pointer[wire.Health] // the last; nil: none yet
	news     atomic.Bool                 // the house is to be told anew of what this board has

	probed   chan struct{} // closed when what follows is known
	devices  []wire.HelloDevice
	runtimes map[string]string

	healthSeconds atomic.Int64 // what the fleet wants; 0: nothing
	fault         atomic.Pointer[wire.Fault]
}

// Run is an agent from its start to the end of ctx. It returns an error for what
// no waiting can mend: a data folder that cannot be used, a link that is
// configured wrongly; ErrReconfigured when it is to be called again.
func Run(ctx context.Context, c Config) error { return run(ctx, c, nil) }

// run tells page (may be nil) of the agent's page once there is one.
func run(ctx context.Context, c Config, tell func(local.Board)) error {
	a := &agent{Config: c, stations: stations{}, changed: make(chan struct{}, 1), probed: make(chan struct{}),
		started: time.Now(), album: &picture.Album{Most: keptPictures, Age: pictureAge}}
	if err := a.build(); err != nil {
		return err
	}
	if tell != nil {
		tell(page{a})
	}
	a.Log.Info().Str("device", string(c.Device)).Str("version", c.Version).Str("board", c.Board.Name).
		Int("pipelines", len(a.stations)).Bool("fleet", c.Fleet != nil).Bool("home", c.Home != nil).Msg("agent starts")

	// The uplink is the last to end: the others still have something to say.
	linked, unlink := context.WithCancel(context.WithoutCancel(ctx))
	defer unlink()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a.settings.restart = func() { cancel(ErrReconfigured) }
	var links, scenes, rest sync.WaitGroup
	var linkErr error
	links.Go(func() {
		<-a.probed // hello comes before everything else
		linkErr = a.uplink.Run(linked)
		cancel(linkErr) // before its time: nothing can work without it
	})
	if served := a.openPage(); served != nil {
		rest.Go(func() {
			if err := served.Run(ctx); err != nil {
				a.Log.Error().Err(err).Msg("the page has ended")
			}
		})
	}
	rest.Go(func() { a.probe(ctx, a.Pulse.Loop("probe")) })
	told, silence := context.WithCancel(linked)
	defer silence()
	for name, s := range a.stations {
		scenes.Go(func() { s.scene.run(told, a.Pulse.Loop(name+" scene")) })
		rest.Go(func() { a.frames(ctx, s) })
		rest.Go(func() { s.climb(ctx, a.Pulse.Loop(name+" climb")) })
		rest.Go(func() { s.restarts(ctx, a.Pulse.Loop(name+" restart")) })
		if s.file.Model != "" {
			rest.Go(func() { a.runLocal(ctx, s, a.Pulse.Loop(name+" model")) })
		}
	}
	rest.Go(func() { a.loop.Run(ctx) })
	rest.Go(func() { a.director.run(ctx, a.Pulse.Loop("director")) })
	rest.Go(func() { a.report(ctx, a.Pulse.Loop("report")) })
	rest.Go(func() { a.watch(ctx, a.Pulse.Loop("watch")) })
	rest.Go(func() { a.reportHealth(ctx) })
	rest.Wait()
	silence()
	scenes.Wait()
	unlink()
	links.Wait()
	a.Log.Info().Msg("agent ends")
	if linkErr == nil && errors.Is(context.Cause(ctx), ErrReconfigured) {
		return ErrReconfigured
	}
	return linkErr
}

// build opens what is on the disk and puts the rooms together.
func (a *agent) build() error {
	if err := a.FS.MkdirAll(a.File.Data); err != nil {
		return fmt.Errorf("data folder %s: %w", a.File.Data, blob.Coded(err, a.File.Data))
	}
	if err := admitFormats(a.FS, a.File.Data, a.Version); err != nil {
		return err
	}
	state, err := slots.Open(a.File.Data, a.FS)
	if err != nil {
		return err
	}
	blobs, err := blob.Open(filepath.Join(a.File.Data, "blobs"), a.FS)
	if err != nil {
		return err
	}
	a.state = state
	a.configure(state, blobs)
	a.Engines = a.ladders()
	start := startID()
	var offers []uplink.Pipeline
	for _, p := range a.File.Pipelines {
		a.stations[p.Name] = a.station(p, start)
		offers = append(offers, uplink.Pipeline{Name: p.Name, Lossless: !p.Source.Live, Each: p.DurableEach})
	}
	if a.uplink, err = uplink.New(a.uplinkConfig(offers)); err != nil {
		return err
	}
	vouch := a.voucher()
	c := update.Config{
		Device: a.Device, Pipelines: a.helloPipelines(), Board: a.board, State: state, Blobs: blobs,
		Fetcher: fetcher{a}, Installer: installer{a.stations, a.settings}, Steps: a.uplink, Log: a.Log,
		Changed: func() { poke(a.changed) }, Floor: a.Floor, Vitals: a.stations.vitals,
		Temperature: func() *float64 { return health.Temperature(a.Root, a.Board.Profile) },
		Pulse:       a.Pulse,
	}
	if vouch != nil {
		c.Voucher = vouch
	}
	if r := a.settings.release; r != "" {
		c.Running = map[string]wire.Digest{wire.ConfigPipeline: r}
	}
	a.loop = update.New(c)
	a.director = &director{voucher: vouch, take: a.desire, refuse: a.disbelieve, now: a.loop.Now, wake: make(chan struct{}, 1),
		fetch: func(ctx context.Context, t wire.DesiredTrust) ([]byte, error) {
			return a.loop.FetchBlob(ctx, t.SHA256, t.Length)
		}}
	for name, s := range a.stations {
		s.scene.seen = a.uplink.Labels(name)
		s.apply(state.State().Home[name])
	}
	a.announce()
	poke(a.changed)
	return nil
}

func (a *agent) station(p PipelineFile, start string) *station {
	o := &opener{engines: a.Engines, order: a.Board.Profile.Accelerators, options: map[hal.Accelerator]map[string]string{}, log: a.Log}
	for _, order := range [][]hal.Accelerator{a.File.Accelerators, p.Accelerators} { // the nearest word counts
		if len(order) > 0 {
			o.order = order
		}
	}
	for accelerator, ways := range a.File.settings(cpu{}) {
		o.options[accelerator] = ways[0] // where no other is tried
	}
	s := &station{file: p, open: o, again: make(chan struct{}, 1), drift: a.drift(p.Name)}
	if p.Model == "" {
		s.note = func(release wire.Digest, r update.Run) {
			a.loop.Note(p.Name, release, r)
			a.judge(p.Name, r.Err)
		}
	}
	log := a.Log.With().Str("pipeline", p.Name).Logger()
	s.scene = newScene(p.Name, fmt.Sprintf("%s-%s-%s-", a.Device, start, p.Name), p.Events, a, a.File.policy(p), a.album, &a.told, log)
	s.pipe = pipeline.New(pipeline.Config{
		Name:     p.Name,
		Source:   keep(a.Source, p.Source, &s.noFrames, func(d time.Duration) { s.pipe.Busy(d) }, log),
		Publish:  func(r *wire.Result) error { return offered(a.uplink.Offer(p.Name, r)) },
		Room:     func() <-chan struct{} { return a.uplink.Room() },
		Reopen:   s.reopen,
		Look:     s.look,
		Seen:     s.seen,
		SID:      func() uint64 { return a.uplink.SID() },
		IDPrefix: fmt.Sprintf("%s-%s-%s", a.Device, start, p.Name),
		Serial:   runtime.NumCPU() == 1, // nothing to overlap on
		Pulse:    a.Pulse,
		Log:      log,
	})
	return s
}

// offered translates one room's words into another's: neither knows of the other.
func offered(err error) error {
	if errors.Is(err, uplink.ErrFull) {
		return pipeline.ErrFull
	}
	return err
}

func (a *agent) uplinkConfig(offers []uplink.Pipeline) uplink.Config {
	c := uplink.Config{Device: a.Device, Dir: a.File.Data, Check: a.CheckOutbox, Pipelines: offers, Pulse: a.Pulse, Log: a.Log}
	if a.Home != nil {
		c.Home = &uplink.HomeConfig{Link: a.Home, OnSet: a.set}
		if f := a.File.Home; f != nil && f.Discovery != discoveryOff {
			c.Home.Prefix = f.Discovery
		}
	}
	if f := a.Fleet; f != nil {
		c.Fleet = &uplink.FleetConfig{
			Link: f.Link, Bulk: f.Bulk, OtherWay: a.transfer() == transferAuto, Root: f.Root, MID: f.MachineID,
			OnDesired: func(document []byte, d *wire.Desired) { a.director.order(document, d) }, OnFault: func(f *wire.Fault) { a.fault.Store(f); poke(a.changed) },
		}
	}
	return c
}

// frames runs one pipeline to its end.
func (a *agent) frames(ctx context.Context, s *station) {
	err := s.pipe.Run(ctx)
	s.scene.end()
	st := s.pipe.Stats()
	e := a.Log.Info().Err(err).Str("pipeline", s.file.Name).Uint64("captured", st.Captured).Uint64("published", st.Published)
	for i, n := range st.Dropped {
		if n > 0 {
			e = e.Uint64(pipeline.Drop(i).String(), n)
		}
	}
	e.Msg("pipeline ends")
}

// runLocal opens the model that the configuration names and puts it to work; it
// tries again until it can.
func (a *agent) runLocal(ctx context.Context, s *station, loop *pulse.Loop) {
	defer loop.End()
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		loop.Beat()
		loop.Do("opens the model", pipeline.OpenTime)
		err := s.startLocal(ctx)
		if err == nil || ctx.Err() != nil || errors.Is(err, pipeline.ErrEnded) {
			poke(a.changed)
			return
		}
		s.noModel.Store(update.FaultOf(err))
		a.Log.Error().Err(err).Str("pipeline", s.file.Name).Dur("again", wait).Msg("model does not open")
		if !loop.Sleep(ctx.Done(), wait) {
			return
		}
	}
}

// startID tells one start of an agent from all others, in the ids of results.
func startID() string {
	var b [5]byte
	rand.Read(b[:]) // never fails
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// reportHealth sends health from time to time.
func (a *agent) reportHealth(ctx context.Context) {
	if a.Root == nil {
		return
	}
	before := map[string]pipeline.Stats{}
	r := health.Reporter{
		Sampler: health.NewSampler(a.Root, a.Board.Profile, resolved(a.File.Data)),
		Period:  a.healthPeriod,
		Collect: func() health.Input { return a.collect(before) },
		Publish: func(h *wire.Health) {
			a.health.Store(h)
			a.uplink.SetHealth(*h)
			a.uplink.SetDiagnostics(a.diagnostics(h))
		},
		Loop: a.Pulse.Loop("health"),
	}
	defer r.Loop.Leave(ctx)
	r.Run(ctx) // its only end is ctx's
}

// healthPeriod: what the file pins wins over what the fleet wants.
func (a *agent) healthPeriod() time.Duration {
	if s := a.File.HealthSeconds; s > 0 {
		return time.Duration(s) * time.Second
	}
	return time.Duration(a.healthSeconds.Load()) * time.Second
}

// collect is what health says besides the gauges; before is kept between calls.
func (a *agent) collect(before map[string]pipeline.Stats) health.Input {
	u := a.uplink.Stats()
	in := health.Input{Outbox: int64(u.Waiting), Lost: u.Lost, Flags: a.flags(u), Pipes: map[string]wire.PipelineHealth{}}
	for name, s := range a.stations {
		now, last := s.pipe.Stats(), before[name]
		h := now.Health(&last)
		if f := s.fault(); f != nil {
			h.Degraded = f.Code
		} else if h.Degraded == "" && s.degraded() != "" {
			h.Degraded = wire.DegradedFallback
		}
		if l, _ := s.working(); l != nil {
			h.Memory = l.memory()
		}
		h.Drift = s.drift.Last()
		in.Pipes[name] = h
		before[name] = now
	}
	return in
}

// dataInMemory is the flag of Config.InMemory.
const dataInMemory = "data_in_memory"

// flags are the codes of what is not as it should be with what the board keeps.
func (a *agent) flags(u uplink.Stats) []string {
	if !a.InMemory {
		return u.Flags
	}
	return append(slices.Clone(u.Flags), dataInMemory)
}
