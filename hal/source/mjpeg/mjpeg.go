// Package mjpeg is a source of pictures that a camera sends over HTTP: as Motion
// JPEG (multipart/x-mixed-replace), or one JPEG a request.
//
// Of a Motion JPEG stream the parts' headers are not read: a JPEG says itself where
// it begins and ends, and what cameras write around it is wrong in many ways (a
// boundary that is not the announced one, a Content-Length that is absent or not
// true).
package mjpeg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/source"
	"github.com/covey-edge/covey/hal/vision"
)

// Config of a Source. URL is required.
type Config struct {
	URL      string // http or https; a user and password in it are used when User is empty
	User     string // for basic and digest authentication
	Password string
	CAFile   string // certificates, PEM, of who may vouch for the camera; "": those of the system
	FPS      float64
	// Stall is how long the camera may take: for its answer, and from one picture to
	// the next. 0 means 10 s.
	Stall  time.Duration
	Decode func(picture []byte, f *hal.Frame) error // nil means vision.DecodePicture
}

// A Source is one connection to a camera. It is live: pictures that nobody is ready
// for are read and dropped, so that the next one is never old.
type Source struct {
	pictures source.Pictures
	name     string // of the camera, without secrets
	stall    time.Duration
	period   time.Duration // between requests of single pictures
	client   *client
	cancel   context.CancelFunc
	done     chan struct{} // closed when the reader has ended
}

// Open asks the camera for its pictures. Its errors are E_SOURCE; neither they nor
// those of Next have a password in them, or what stands behind a ? in the address.
func Open(ctx context.Context, c Config) (*Source, error) {
	if c.Stall == 0 {
		c.Stall = 10 * time.Second
	}
	if c.Stall < 0 || !(c.FPS >= 0 && c.FPS <= 1000) {
		return nil, &hal.Error{Code: hal.CodeSource, Text: fmt.Sprintf("camera with a limit of %v and %v pictures a second: give more than 0 s, and 0 to 1000", c.Stall, c.FPS)}
	}
	if c.FPS == 0 {
		c.FPS = 1
	}
	if c.Decode == nil {
		c.Decode = vision.DecodePicture
	}
	client, err := newClient(c)
	if err != nil {
		return nil, err
	}
	s := &Source{
		pictures: source.Pictures{Box: source.NewBox(), Decode: c.Decode, Quiet: c.Stall},
		name:     client.name, stall: c.Stall, period: time.Duration(float64(time.Second) / c.FPS),
		client: client, done: make(chan struct{}),
	}
	// The connection lives as long as the source, not as long as Open's context.
	living, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	opening := context.AfterFunc(ctx, cancel)
	r, err := s.ask(living)
	if !opening() || err != nil {
		cancel()
		client.close()
		if r != nil {
			r.Body.Close()
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	if isPicture(r) {
		s.pictures.Quiet += s.period // between two we do not ask
	}
	go s.read(living, r)
	return s, nil
}

// ask gets one answer with pictures within the limit.
func (s *Source) ask(ctx context.Context) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	late := time.AfterFunc(s.stall, func() { cancel(fmt.Errorf("no answer in %v", s.stall)) })
	r, err := s.client.get(ctx)
	if !late.Stop() && err == nil {
		r.Body.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		cancel(nil)
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
			err = cause
		}
		return nil, s.client.explain(err)
	}
	// Who closes the body ends what belongs to it.
	r.Body = &body{r.Body, cancel}
	return r, nil
}

type body struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (b *body) Close() error {
	b.cancel(nil)
	return b.ReadCloser.Close()
}

// read puts what comes into the box until the connection ends.
func (s *Source) read(ctx context.Context, r *http.Response) {
	defer close(s.done)
	defer s.client.close()
	var err error
	if isPicture(r) {
		err = s.poll(ctx, r)
	} else {
		err = s.stream(r)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("it closed the connection")
	}
	s.pictures.Box.End(&hal.Error{Code: hal.CodeSourceLost, Text: fmt.Sprintf("camera %s is gone: %v", s.name, bare(err)), Err: err})
}

// isPicture says whether an answer is one picture; others are streams.
func isPicture(r *http.Response) bool {
	t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return strings.HasPrefix(t, "image/")
}

func (s *Source) stream(r *http.Response) error {
	defer r.Body.Close()
	jpegs := source.NewJPEGs(r.Body)
	var memory []byte
	for {
		picture, began, err := jpegs.Next(memory)
		if err != nil && !errors.Is(err, hal.ErrBadFrame) {
			return err
		}
		memory = s.pictures.Box.Put(source.Item{Data: picture, At: began, Err: err})
	}
}

// poll asks for one picture after the other; the first answer is there.
func (s *Source) poll(ctx context.Context, r *http.Response) error {
	tick := time.NewTicker(s.period)
	defer tick.Stop()
	var memory []byte
	for {
		b := bytes.NewBuffer(memory)
		began := time.Now()
		_, err := b.ReadFrom(io.LimitReader(r.Body, source.MaxPicture+1))
		r.Body.Close()
		if err != nil {
			return err
		}
		// One that is too large is refused by who decodes it.
		memory = s.pictures.Box.Put(source.Item{Data: b.Bytes(), At: began})
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if r, err = s.ask(ctx); err != nil {
			return err
		}
	}
}

// Next decodes the newest picture into f. E_SOURCE_STALLED: none came within the
// limit. E_SOURCE_LOST: the camera closed the connection.
func (s *Source) Next(ctx context.Context, f *hal.Frame) error {
	err := s.pictures.Next(ctx, f)
	if errors.Is(err, source.ErrQuiet) {
		return &hal.Error{Code: hal.CodeSourceStalled, Text: fmt.Sprintf(
			"camera %s has sent no picture for %v: check the network between, or restart the camera", s.name, s.stall), Err: err}
	}
	return err
}

// Live is true.
func (s *Source) Live() bool { return true }

// Close ends the connection.
func (s *Source) Close() error {
	s.cancel()
	<-s.done
	return nil
}
