package agent

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/agent/internal/event"
	"github.com/covey-edge/covey/agent/internal/picture"
	"github.com/covey-edge/covey/agent/internal/pulse"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

const (
	lastEvents   = 50             // that the page shows
	keptPictures = 32             // of events, in memory
	pictureAge   = 24 * time.Hour // after which they are forgotten, at home too
	waitingMost  = 64             // events on their way to the outbox
	viewersMost  = 8              // that watch a pipeline at a time
)

// A house is who hears of scenes.
type house interface {
	SetCount(pipeline, zone, label string, n int)
	SetImage(pipeline string, jpeg []byte) // nil: there is none any more
	OfferEvent(pipeline string, e *wire.Event) error
}

// A scene is what a pipeline's results come to for people: counts, events, and where
// they are allowed pictures. See is the frame path's and waits for nothing; what takes
// time (pictures, the disk) is run's.
type scene struct {
	name   string
	prefix string // of events' ids
	events EventsFile
	house  house
	studio *picture.Studio
	album  *picture.Album
	count  *atomic.Uint64 // of events told, over all pipelines
	log    zerolog.Logger
	todo   chan *happening

	mutex    sync.Mutex // guards what follows
	watcher  *event.Watcher
	begun    int // watchers, one after the other
	last     []told
	seen     []string // labels, where the configuration names none
	shown    string   // id of the picture that the house has
	viewers  []chan *View
	viewed   time.Time // when they were last sent something
	snapshot bool      // somebody asked for a picture of the next frame
	now      *wire.Result
	look     *hal.Frame // of now; nil when none was made, or it was given away
}

// A happening is an event, or a picture that somebody wants, with what it is of.
type happening struct {
	event    *wire.Event // nil: none
	look     *hal.Frame  // nil: no picture
	result   wire.Result // with items of its own
	viewers  []chan *View
	snapshot bool
}

// A View is a moment of a pipeline as viewers see it.
type View struct {
	At      time.Time
	Items   []wire.Item
	Picture *picture.Picture // nil: none may be shown
}

// told is an event with the number of its telling, over all pipelines.
type told struct {
	wire.Event
	n uint64
}

// viewPause is the least time between two moments that viewers see.
const viewPause = 200 * time.Millisecond

func newScene(name, prefix string, events EventsFile, h house, p picture.Policy, album *picture.Album, count *atomic.Uint64, log zerolog.Logger) *scene {
	s := &scene{name: name, prefix: prefix, events: events, house: h, studio: picture.NewStudio(p), album: album, count: count, log: log, todo: make(chan *happening, waitingMost)}
	s.watch(nil)
	return s
}

// watch follows other zones from the next result on. What is there has gone, as far as
// anybody is told: it comes again where the new zones have it.
func (s *scene) watch(zones []event.Zone) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.watcher != nil {
		s.watcher.End(s)
	}
	s.begun++
	s.watcher = event.New(event.Config{IDPrefix: s.prefix + strconv.Itoa(s.begun), Zones: zones, Labels: s.events.Labels,
		Confirm: s.events.Confirm, Hold: s.events.Hold})
}

// see is pipeline.Config.Seen.
func (s *scene) see(r *wire.Result, look *hal.Frame) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.now, s.look = r, look
	s.watcher.See(r.TS, r.Items, s)
	h := &happening{}
	if since := r.TS.Sub(s.viewed); len(s.viewers) > 0 && (s.look != nil || s.studio.Policy().Side() == 0 && (since >= viewPause || since < 0)) {
		h = s.happening(nil)
		h.viewers, s.viewed = slices.Clone(s.viewers), r.TS
	}
	if s.snapshot && (s.look != nil || h.look != nil) {
		if h.look == nil {
			h = s.happening(nil)
		}
		h.snapshot, s.snapshot = true, false
	}
	if h.snapshot || len(h.viewers) > 0 {
		s.hand(h)
	}
	s.studio.Drop(s.look)
	s.now, s.look = nil, nil
}

// tick lets time pass without results.
func (s *scene) tick(now time.Time) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.watcher.Tick(now, s)
	s.album.Expire(now)
	if s.shown != "" && s.album.Get(s.shown) == nil {
		s.shown = ""
		s.house.SetImage(s.name, nil)
	}
}

// Count is event.Told's.
func (s *scene) Count(zone, label string, n int) { s.house.SetCount(s.name, zone, label, n) }

// Event is event.Told's.
func (s *scene) Event(e *wire.Event) {
	copied := *e
	copied.Pipe = s.name
	if b := e.Box; b != nil {
		box := *b
		copied.Box = &box
	}
	s.hand(s.happening(&copied))
}

// happening takes the look with it, for the first that asks.
func (s *scene) happening(e *wire.Event) *happening {
	h := &happening{event: e}
	if s.now == nil || e != nil && (s.look == nil || e.Type == wire.EventEnd) {
		return h
	}
	h.look, s.look = s.look, nil
	h.result = wire.Result{TS: s.now.TS, Kind: s.now.Kind, Items: wire.CloneItems(s.now.Items)}
	return h
}

// hand gives run something to do. Where that is far behind, an event is lost and said
// so; a view is not missed.
func (s *scene) hand(h *happening) {
	if h.event == nil && !h.snapshot && len(s.todo) > 2 {
		s.studio.Drop(h.look)
		return
	}
	select {
	case s.todo <- h:
	default:
		s.studio.Drop(h.look)
		s.log.Warn().Str("pipeline", s.name).Msg("an event is lost: the disk does not keep up")
	}
}

// run does what takes time, until ctx ends and nothing waits.
func (s *scene) run(ctx context.Context, loop *pulse.Loop) {
	defer loop.End()
	for {
		loop.Beat()
		select {
		case h := <-s.todo:
			s.do(h)
			continue
		default:
		}
		select {
		case h := <-s.todo:
			s.do(h)
		case <-loop.Pulse():
		case <-ctx.Done():
			return
		}
	}
}

func (s *scene) do(h *happening) {
	defer func() { s.studio.Drop(h.look) }()
	if h.event != nil {
		if h.look != nil && s.print(h, h.event.Event) {
			h.event.Image = h.event.Event
		}
		s.keep(h.event)
		if err := s.house.OfferEvent(s.name, h.event); err != nil {
			s.log.Warn().Err(err).Str("pipeline", s.name).Str("event", h.event.Event).Msg("event")
		}
	}
	if len(h.viewers) > 0 {
		s.show(h)
	}
	if h.snapshot {
		s.print(h, s.prefix+"snapshot")
	}
}

// show sends a moment to those who look.
func (s *scene) show(h *happening) {
	var p *picture.Picture
	if h.look != nil {
		var err error
		if p, err = s.studio.Preview(h.look, &h.result); err != nil {
			return // it was forbidden meanwhile
		}
	}
	for _, v := range h.viewers {
		select {
		case v <- &View{At: h.result.TS, Items: h.result.Items, Picture: p}:
		default: // it has not shown the last one yet
		}
	}
}

// print makes a picture, keeps it, and shows it at home where that may be.
func (s *scene) print(h *happening, id string) bool {
	p, err := s.studio.Print(id, h.look, &h.result)
	if err != nil {
		return false
	}
	s.album.Put(p)
	if jpeg, err := p.Show(picture.Home); err == nil {
		s.mutex.Lock()
		s.shown = id
		s.mutex.Unlock()
		s.house.SetImage(s.name, jpeg)
	}
	return true
}

// keep remembers an event for the page, in the place of what was said of it before.
func (s *scene) keep(e *wire.Event) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	i := slices.IndexFunc(s.last, func(o told) bool { return o.Event.Event == e.Event })
	if i >= 0 {
		if e.Image == "" {
			e.Image = s.last[i].Image
		}
		s.last = slices.Delete(s.last, i, i+1)
	}
	if s.last = append(s.last, told{*e, s.count.Add(1)}); len(s.last) > lastEvents {
		s.last = slices.Delete(s.last, 0, len(s.last)-lastEvents)
	}
}

// recent is the last events, oldest first.
func (s *scene) recent() []told {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return slices.Clone(s.last)
}

// view sends moments to a viewer until ctx ends. The error is for one viewer too many.
func (s *scene) view(ctx context.Context) (<-chan *View, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if len(s.viewers) == viewersMost {
		return nil, &hal.Error{Code: hal.CodePipeline, Text: "too many people look at this pipeline: close another page"}
	}
	v := make(chan *View, 1)
	s.viewers = append(s.viewers, v)
	context.AfterFunc(ctx, func() {
		s.mutex.Lock()
		defer s.mutex.Unlock()
		s.viewers = slices.DeleteFunc(s.viewers, func(o chan *View) bool { return o == v })
	})
	return v, nil
}

// shoot makes a picture of the next frame for the house.
func (s *scene) shoot() error {
	if p := s.studio.Policy(); !p.Allows(picture.Home) {
		return p.Refuse(picture.Home)
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.snapshot = true
	return nil
}

// end says that nobody looks any more.
func (s *scene) end() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.watcher.End(s)
}
