package exec

import (
	"context"
	"fmt"
	"net"
	osexec "os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bluenviron/gortsplib/v5"
	"github.com/bluenviron/gortsplib/v5/pkg/base"
	"github.com/bluenviron/gortsplib/v5/pkg/description"
	"github.com/bluenviron/gortsplib/v5/pkg/format"
	"github.com/bluenviron/gortsplib/v5/pkg/liberrors"
	"github.com/pion/rtp"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/source"
)

// An rtspServer passes on what is published to it. Readers have to know the password.
type rtspServer struct {
	t        testing.TB
	server   *gortsplib.Server
	address  string
	password string

	mutex     sync.Mutex
	stream    *gortsplib.ServerStream
	publisher *gortsplib.ServerSession
	ready     chan struct{} // closed when something is published
}

func newRTSPServer(t testing.TB, password string) *rtspServer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &rtspServer{t: t, address: l.Addr().String(), password: password, ready: make(chan struct{})}
	l.Close()
	h.start()
	t.Cleanup(func() { h.server.Close() })
	return h
}

func (h *rtspServer) start() {
	h.server = &gortsplib.Server{Handler: h, RTSPAddress: h.address}
	if err := h.server.Start(); err != nil {
		h.t.Fatal(err)
	}
}

// publish sends moving pictures until the test ends.
func (h *rtspServer) publish(size string) *osexec.Cmd {
	h.t.Helper()
	c := osexec.Command("ffmpeg", "-nostdin", "-loglevel", "error", "-re", "-f", "lavfi", "-i", "testsrc2=rate=25:size="+size,
		"-c:v", "mpeg4", "-b:v", "4M", "-g", "5", "-f", "rtsp", "-rtsp_transport", "tcp", "rtsp://"+h.address+"/cam")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		h.t.Fatalf("start ffmpeg: %v: sudo apt-get install ffmpeg", err)
	}
	h.t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	h.mutex.Lock()
	ready := h.ready
	h.mutex.Unlock()
	select {
	case <-ready:
	case <-time.After(20 * time.Second):
		h.t.Fatal("ffmpeg does not publish")
	}
	return c
}

func (h *rtspServer) OnSessionClose(ctx *gortsplib.ServerHandlerOnSessionCloseCtx) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if h.stream != nil && ctx.Session == h.publisher {
		h.stream.Close()
		h.stream, h.ready = nil, make(chan struct{})
	}
}

func (h *rtspServer) OnAnnounce(ctx *gortsplib.ServerHandlerOnAnnounceCtx) (*base.Response, error) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.stream, h.publisher = &gortsplib.ServerStream{Server: h.server, Desc: ctx.Description}, ctx.Session
	return &base.Response{StatusCode: base.StatusOK}, h.stream.Initialize()
}

func (h *rtspServer) reader(c *gortsplib.ServerConn, r *base.Request) (*base.Response, *gortsplib.ServerStream, error) {
	if h.password != "" && !c.VerifyCredentials(r, "admin", h.password) {
		return &base.Response{StatusCode: base.StatusUnauthorized}, nil, liberrors.ErrServerAuth{}
	}
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if h.stream == nil {
		return &base.Response{StatusCode: base.StatusNotFound}, nil, nil
	}
	return &base.Response{StatusCode: base.StatusOK}, h.stream, nil
}

func (h *rtspServer) OnDescribe(ctx *gortsplib.ServerHandlerOnDescribeCtx) (*base.Response, *gortsplib.ServerStream, error) {
	return h.reader(ctx.Conn, ctx.Request)
}

func (h *rtspServer) OnSetup(ctx *gortsplib.ServerHandlerOnSetupCtx) (*base.Response, *gortsplib.ServerStream, error) {
	if ctx.Session.State() == gortsplib.ServerSessionStatePreRecord {
		return &base.Response{StatusCode: base.StatusOK}, nil, nil
	}
	return h.reader(ctx.Conn, ctx.Request)
}

func (h *rtspServer) OnPlay(*gortsplib.ServerHandlerOnPlayCtx) (*base.Response, error) {
	return &base.Response{StatusCode: base.StatusOK}, nil
}

func (h *rtspServer) OnRecord(ctx *gortsplib.ServerHandlerOnRecordCtx) (*base.Response, error) {
	h.mutex.Lock()
	stream, ready := h.stream, h.ready
	h.mutex.Unlock()
	ctx.Session.OnPacketRTPAny(func(m *description.Media, _ format.Format, p *rtp.Packet) { stream.WritePacketRTP(m, p) })
	close(ready)
	return &base.Response{StatusCode: base.StatusOK}, nil
}

func rtsp(t testing.TB, c Camera) Config {
	t.Helper()
	config, err := RTSP(c)
	if err != nil {
		t.Fatal(err)
	}
	config.Log = func(line string) { t.Log("ffmpeg: " + line) }
	return config
}

// TestRTSP reads a real stream from a real server, loses it and gets it back.
func TestRTSP(t *testing.T) {
	h := newRTSPServer(t, "hu:sh@1")
	h.publish("320x240")
	camera := Camera{URL: "rtsp://" + h.address + "/cam", User: "admin", Password: "hu:sh@1"}
	haltest.Source(t, func(t *testing.T) hal.Source { return open(t, rtsp(t, camera)) })

	camera.Width, camera.FPS = 160, 5
	kept := source.Keep(source.Config{Live: true, Open: func(ctx context.Context) (hal.Source, error) { return Open(ctx, rtsp(t, camera)) }})
	defer kept.Close()
	var f hal.Frame
	next := func() {
		t.Helper()
		if err := kept.Next(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
	}
	next()
	if f.Format != hal.FormatYUV420 || f.Width != 160 || f.Height != 120 || !f.Limited {
		t.Errorf("got format %d of %d×%d, limited %v", f.Format, f.Width, f.Height, f.Limited)
	}
	began := time.Now()
	for range 10 {
		next()
	}
	if took := time.Since(began); took < time.Second || took > 4*time.Second {
		t.Errorf("10 pictures at 5 a second took %v", took)
	}
	h.server.Close()
	h.mutex.Lock()
	h.stream, h.ready = nil, make(chan struct{})
	h.mutex.Unlock()
	for kept.Status().Faults[hal.CodeSourceLost] == 0 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_ = kept.Next(ctx, &f)
		cancel()
	}
	if s := kept.Status(); strings.Contains(fmt.Sprint(s.Fault), "hu:sh") || strings.Contains(fmt.Sprint(s.Fault), "hu%3Ash") {
		t.Errorf("the password is in %v", s.Fault)
	}
	h.start()
	h.publish("320x240")
	before := kept.Status().Frames
	next()
	if s := kept.Status(); s.State != source.Live || s.Frames != before+1 || s.Opened < 2 {
		t.Errorf("status %+v", s)
	}
}

func TestRTSPRefused(t *testing.T) {
	h := newRTSPServer(t, "right")
	h.publish("64x64")
	var said []string
	c := rtsp(t, Camera{URL: "rtsp://admin:wr0ng-one@" + h.address + "/cam?key=t0ken"})
	c.Log = func(line string) { said = append(said, line) }
	s := open(t, c)
	err := s.Next(t.Context(), new(hal.Frame))
	if hal.CodeOf(err) != hal.CodeSourceLost || !strings.Contains(err.Error(), "401 Unauthorized") {
		t.Errorf("got %v", err)
	}
	s.Close()
	if all := fmt.Sprint(err, said); strings.Contains(all, "wr0ng-one") || strings.Contains(all, "t0ken") || len(said) == 0 {
		t.Errorf("said %s", all)
	}
	for _, c := range []Camera{
		{}, {URL: "http://h/x"}, {URL: "rtsp://"}, {URL: "rtsp://u:secret\x7f@h/"}, {URL: "rtsp://h/", Width: -1}, {URL: "rtsp://h/", FPS: -1},
	} {
		if _, err := RTSP(c); hal.CodeOf(err) != hal.CodeSource || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: got %v", c, err)
		}
	}
}
