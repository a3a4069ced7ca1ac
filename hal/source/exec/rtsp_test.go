package exec

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
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
	"github.com/covey-edge/covey/hal/haltest/port"
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
	h := &rtspServer{t: t, address: port.Free(t), password: password, ready: make(chan struct{})}
	h.start()
	t.Cleanup(func() { h.server.Close() })
	return h
}

// encrypted is the server's address with TLS before it. (By itself gortsplib encrypts
// the pictures once more, SRTP, which neither ffmpeg nor most cameras do.)
func (h *rtspServer) encrypted() string {
	certified := httptest.NewTLSServer(nil)
	certified.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", certified.TLS)
	if err != nil {
		h.t.Fatal(err)
	}
	var all sync.WaitGroup
	h.t.Cleanup(func() { l.Close(); h.server.Close(); all.Wait() })
	pass := func(to, from net.Conn) {
		defer to.Close()
		_, _ = io.Copy(to, from)
	}
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			plain, err := net.Dial("tcp", h.address)
			if err != nil {
				c.Close()
				return
			}
			all.Go(func() { pass(plain, c) })
			all.Go(func() { pass(c, plain) })
		}
	})
	return "rtsps://" + l.Addr().String()
}

func (h *rtspServer) start() {
	// The one before may still be in a child of another test, between fork and exec.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		h.server = &gortsplib.Server{Handler: h, RTSPAddress: h.address}
		err := h.server.Start()
		if err == nil {
			return
		}
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end) {
			h.t.Fatal(err)
		}
	}
}

// How cameras encode, and so that it does not take long.
var (
	mpeg4 = []string{"-c:v", "mpeg4", "-b:v", "4M", "-g", "5"}
	h264  = []string{"-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency", "-g", "25"}
	h265  = []string{"-c:v", "libx265", "-preset", "ultrafast", "-tune", "zerolatency", "-x265-params", "log-level=error:keyint=25"}
)

// publish sends moving pictures, 25 a second, until the test ends.
func (h *rtspServer) publish(size string, codec []string) {
	h.t.Helper()
	args := []string{"-nostdin", "-loglevel", "error", "-re", "-f", "lavfi", "-i", "testsrc2=rate=25:size=" + size}
	c := osexec.Command("ffmpeg", append(append(args, codec...), "-f", "rtsp", "-rtsp_transport", "tcp", "rtsp://"+h.address+"/cam")...)
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
	config, err := RTSP(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	config.Log = func(line string) { t.Log("ffmpeg: " + line) }
	return config
}

// What cameras send, through a real server.
func TestRTSPCodecs(t *testing.T) {
	for name, codec := range map[string][]string{"MPEG-4": mpeg4, "H.264": h264, "H.265": h265, "H.264 over TLS": h264} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newRTSPServer(t, "hu:sh@1")
			h.publish("320x240", codec)
			address := "rtsp://" + h.address
			if strings.HasSuffix(name, "TLS") {
				address = h.encrypted()
			}
			c := rtsp(t, Camera{URL: address + "/cam", User: "admin", Password: "hu:sh@1"})
			haltest.Source(t, func(t *testing.T) hal.Source { return open(t, c) })
			s := open(t, c)
			var f hal.Frame
			if err := s.Next(t.Context(), &f); err != nil || f.Format != hal.FormatYUV420 || f.Width != 320 || f.Height != 240 || !f.Limited {
				t.Errorf("format %d of %d×%d, limited %v, %v", f.Format, f.Width, f.Height, f.Limited, err)
			}
		})
	}
}

// A camera that sends fewer pictures than are wished sends no more for it, and a size
// is what it is.
func TestRTSPRate(t *testing.T) {
	t.Parallel()
	h := newRTSPServer(t, "")
	h.publish("320x240", slices.Concat(h264, []string{"-r", "5", "-g", "5"}))
	s := open(t, rtsp(t, Camera{URL: "rtsp://" + h.address + "/cam", Width: 200, Height: 100, FPS: 50}))
	var f hal.Frame
	if err := s.Next(t.Context(), &f); err != nil || f.Width != 200 || f.Height != 100 {
		t.Fatalf("%d×%d, %v", f.Width, f.Height, err)
	}
	began := time.Now()
	for range 10 {
		if err := s.Next(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took < time.Second {
		t.Errorf("10 pictures at 5 a second took %v", took)
	}
}

// No part of the address is in the arguments, which everybody can see. Where ffmpeg is
// too old for that it still works, and the test sees what it looks for.
func TestRTSPArguments(t *testing.T) {
	h := newRTSPServer(t, "pass'w0rd")
	h.publish("64x64", h264)
	arguments := func() string {
		s := open(t, rtsp(t, Camera{URL: "rtsp://" + h.address + "/cam?key=t0ken", User: "admin", Password: "pass'w0rd"}))
		if err := s.Next(t.Context(), new(hal.Frame)); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.process.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	shows := func(s string) bool {
		return strings.Contains(s, "w0rd") || strings.Contains(s, "t0ken") || strings.Contains(s, h.address)
	}
	if got := arguments(); shows(got) || !strings.Contains(got, "yuv4mpegpipe") {
		t.Errorf("arguments: %q", got)
	}
	path, err := osexec.LookPath("ffmpeg")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := `#!/bin/sh
[ "$1" != -version ] || exec echo "ffmpeg version 4.4.2-0ubuntu0.22.04.1 Copyright (c)"
exec ` + path + ` "$@"
`
	if err := os.WriteFile(filepath.Join(dir, "ffmpeg"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if got := arguments(); !shows(got) {
		t.Errorf("arguments of an old ffmpeg: %q", got)
	}
}

// TestRTSP reads a stream, loses it and gets it back.
func TestRTSP(t *testing.T) {
	h := newRTSPServer(t, "hu:sh@1")
	h.publish("320x240", h264)
	camera := Camera{URL: "rtsp://" + h.address + "/cam", User: "admin", Password: "hu:sh@1"}
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
	h.publish("320x240", h264)
	before := kept.Status().Frames
	next()
	if s := kept.Status(); s.State != source.Live || s.Frames != before+1 || s.Opened < 2 {
		t.Errorf("status %+v", s)
	}
}

func TestRTSPRefused(t *testing.T) {
	h := newRTSPServer(t, "right")
	h.publish("64x64", mpeg4)
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
		{}, {URL: "http://h/x"}, {URL: "rtsp://"}, {URL: "rtsp://u:secret\x7f@h/"}, {URL: "rtsp://h/", Width: -1}, {URL: "rtsp://h/", FPS: -1}, {URL: "rtsp://h/", Height: 100},
	} {
		if _, err := RTSP(t.Context(), c); hal.CodeOf(err) != hal.CodeSource || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: got %v", c, err)
		}
	}
}
