// Package mqtt is a source of what others publish: pictures, or numbers of sensors,
// from topics of the house's broker. It has no connection of its own; who opens it
// gives it a way to subscribe.
package mqtt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/source"
	"github.com/covey-edge/covey/hal/source/numbers"
	"github.com/covey-edge/covey/hal/source/window"
	"github.com/covey-edge/covey/hal/vision"
)

// A Subscribe has got called with the payload of each message that comes to a topic,
// which may have wildcards, until stop is called; got keeps nothing of it and does not
// wait. After stop has returned got is not called any more. What is lost with a
// connection it mends itself. Messages that the broker has kept (retained) it leaves
// out: nobody knows how old they are.
type Subscribe func(ctx context.Context, topic string, got func(payload []byte)) (stop func(), err error)

// Config of a Source. Subscribe and Topic are required.
type Config struct {
	Subscribe Subscribe
	Topic     string
	Numbers   *Numbers // what is in a message; nil: a picture
	// Quiet is how long nothing may come; 0: for ever, as from a sensor that speaks when
	// something changes.
	Quiet  time.Duration
	Decode func(picture []byte, f *hal.Frame) error // nil means vision.DecodePicture
}

// Numbers says how messages become windows of samples. Each is one sample of all
// channels.
type Numbers struct {
	Format      numbers.Format // "": JSON
	Channels    []string       // as of numbers.New
	Window, Hop int            // messages, as of window.New
}

// A Source is one subscription. It is live: of pictures the newest wins, of windows the
// oldest are dropped when nobody takes them.
type Source struct {
	c    Config
	stop func()

	pictures source.Pictures // of them
	series   *series         // nil: pictures
}

// Open subscribes. Its errors are E_SOURCE, E_CONFIG, and those of ctx.
func Open(ctx context.Context, c Config) (*Source, error) {
	if c.Subscribe == nil || c.Topic == "" {
		return nil, refuse(c.Topic, "there is no broker or no topic: configure both")
	}
	if c.Quiet < 0 {
		return nil, refuse(c.Topic, fmt.Sprintf("quiet is %v: give 0 or more", c.Quiet))
	}
	if c.Decode == nil {
		c.Decode = vision.DecodePicture
	}
	s := &Source{c: c}
	got := s.picture
	if c.Numbers == nil {
		s.pictures = source.Pictures{Box: source.NewBox(), Decode: c.Decode, Quiet: c.Quiet}
	} else {
		var err error
		if s.series, err = newSeries(*c.Numbers); err != nil {
			return nil, err
		}
		got = s.series.got
	}
	stop, err := c.Subscribe(ctx, c.Topic, got)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		e := refuse(c.Topic, err.Error())
		e.Err = err
		return nil, e
	}
	s.stop = stop
	return s, nil
}

func refuse(topic, text string) *hal.Error {
	return &hal.Error{Code: hal.CodeSource, Text: fmt.Sprintf("MQTT topic %.80q: %s", topic, text)}
}

// picture takes a message in. What comes back from the box as memory is the source's
// own, never a message's.
func (s *Source) picture(payload []byte) {
	item := source.Item{At: time.Now()}
	if len(payload) > source.MaxPicture {
		item.Err = fmt.Errorf("%w: %w", hal.ErrBadFrame, &hal.Error{Code: hal.CodeImageSize, Text: fmt.Sprintf(
			"message of %d bytes is more than %d MiB: make the picture smaller", len(payload), source.MaxPicture>>20)})
	} else {
		item.Data = append([]byte(nil), payload...)
	}
	s.pictures.Box.Put(item)
}

// Next gives the newest picture, or the next window. E_SOURCE_STALLED: nothing came
// for longer than Config.Quiet.
func (s *Source) Next(ctx context.Context, f *hal.Frame) error {
	var err error
	if s.series != nil {
		err = s.series.next(ctx, s.c.Quiet, f)
	} else {
		err = s.pictures.Next(ctx, f)
	}
	if errors.Is(err, source.ErrQuiet) {
		return &hal.Error{Code: hal.CodeSourceStalled, Text: fmt.Sprintf(
			"nothing came to MQTT topic %.80q for %v: check who publishes there", s.c.Topic, s.c.Quiet), Err: err}
	}
	return err
}

// Live is true.
func (s *Source) Live() bool { return true }

// Close ends the subscription.
func (s *Source) Close() error {
	s.stop()
	return nil
}

// A series makes windows of the numbers that come.
type series struct {
	n     Numbers
	ready chan struct{} // 1: something came

	mutex  sync.Mutex
	parser *numbers.Parser
	ring   *window.Ring // nil until the first message says how many channels there are
	values []float32
	want   hal.Want // of who waits: a window may be as many samples as he wants
	bad    error    // of a message that nobody was told of
	came   time.Time
}

func newSeries(n Numbers) (*series, error) {
	if n.Format == "" {
		n.Format = numbers.JSON
	}
	parser, err := numbers.New(n.Format, n.Channels)
	if err != nil {
		return nil, err
	}
	if _, err := window.New(max(1, len(n.Channels)), n.Window, n.Hop); err != nil {
		return nil, err
	}
	return &series{n: n, parser: parser, ready: make(chan struct{}, 1)}, nil
}

// maxNumbers bounds a message with numbers, in bytes.
const maxNumbers = 64 << 10

func (s *series) got(payload []byte) {
	now := time.Now()
	s.mutex.Lock()
	if err := s.push(payload, now); err != nil {
		s.bad = fmt.Errorf("%w: %w", hal.ErrBadFrame, &hal.Error{Code: hal.CodeJSON, Text: "MQTT message: " + err.Error(), Err: err})
	}
	s.came = now
	s.mutex.Unlock()
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

func (s *series) push(payload []byte, now time.Time) (err error) {
	if len(payload) > maxNumbers {
		return fmt.Errorf("%d bytes of numbers: at most %d are read", len(payload), maxNumbers)
	}
	if s.values, err = s.parser.Parse(s.values[:0], payload); err != nil {
		return err
	}
	if s.ring == nil {
		if s.ring, err = window.New(s.parser.Channels(), s.n.Window, s.n.Hop); err != nil {
			return err
		}
		s.ring.Next(&hal.Frame{Want: s.want}) // it learns the size, so that this message counts
	}
	s.ring.Push(s.values, now)
	return nil
}

// next waits for a window. Messages that fill one slowly are no silence.
func (s *series) next(ctx context.Context, quiet time.Duration, f *hal.Frame) error {
	began := time.Now()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		done, last, err := s.take(f)
		if done {
			return err
		}
		if last.Before(began) {
			last = began
		}
		var late <-chan time.Time
		var timer *time.Timer
		if quiet > 0 {
			timer = time.NewTimer(quiet - time.Since(last))
			late = timer.C
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
		case <-late:
			return source.ErrQuiet
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

func (s *series) take(f *hal.Frame) (done bool, last time.Time, err error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.want = f.Want
	if s.ring != nil && s.ring.Next(f) {
		f.Name = ""
		return true, s.came, nil
	}
	err, s.bad = s.bad, nil
	return err != nil, s.came, err
}
