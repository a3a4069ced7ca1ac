package mqtt

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/haltest/port"
)

// A house hands payloads to who has subscribed.
type house struct {
	mutex   sync.Mutex
	got     func([]byte)
	stopped bool
}

func (h *house) subscribe(_ context.Context, topic string, got func([]byte)) (func(), error) {
	if topic == "forbidden" {
		return nil, errors.New("the broker says no")
	}
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.got = got
	return func() { h.mutex.Lock(); h.got, h.stopped = nil, true; h.mutex.Unlock() }, nil
}

func (h *house) publish(payload []byte) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if h.got != nil {
		b := bytes.Clone(payload)
		h.got(b)
		clear(b) // nothing of it may be kept
	}
}

func open(t *testing.T, h *house, c Config) *Source {
	t.Helper()
	c.Subscribe = h.subscribe
	if c.Topic == "" {
		c.Topic = "cam/+/picture"
	}
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func picture(t testing.TB, grey uint8) []byte {
	t.Helper()
	m := image.NewGray(image.Rect(0, 0, 9, 5))
	m.SetGray(0, 0, color.Gray{grey})
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSuite(t *testing.T) {
	for _, c := range []Config{{}, {Numbers: &Numbers{Window: 1}}, {Numbers: &Numbers{Window: 5, Hop: 2}}} {
		haltest.Source(t, func(t *testing.T) hal.Source {
			h := &house{}
			s := open(t, h, c)
			ctx, cancel := context.WithCancel(t.Context())
			var publisher sync.WaitGroup
			publisher.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					payload := picture(t, uint8(i))
					if c.Numbers != nil {
						payload = fmt.Append(nil, i)
					}
					h.publish(payload)
					time.Sleep(time.Millisecond)
				}
			})
			t.Cleanup(func() { cancel(); publisher.Wait() })
			return s
		})
	}
}

func TestPictures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		s := open(t, h, Config{Quiet: time.Minute})
		var f hal.Frame
		for i := range 5 {
			h.publish(picture(t, uint8(i+1)))
		}
		if err := s.Next(t.Context(), &f); err != nil || f.Planes[0][0] != 5 || f.Width != 9 || f.Seq != 1 {
			t.Errorf("picture %v of width %d, %v", f.Planes[0][:1], f.Width, err)
		}
		h.publish([]byte("offline"))
		if err := s.Next(t.Context(), &f); !errors.Is(err, hal.ErrBadFrame) || hal.CodeOf(err) != hal.CodeImage {
			t.Errorf("got %v", err)
		}
		h.publish(make([]byte, 17<<20))
		if err := s.Next(t.Context(), &f); !errors.Is(err, hal.ErrBadFrame) || hal.CodeOf(err) != hal.CodeImageSize {
			t.Errorf("got %v", err)
		}
		if err := s.Next(t.Context(), &f); hal.CodeOf(err) != hal.CodeSourceStalled || !strings.Contains(err.Error(), "nothing came to MQTT topic") {
			t.Errorf("got %v", err)
		}
		if s.Close(); !h.stopped || !s.Live() {
			t.Error("it is still subscribed")
		}
	})
}

func TestNumbers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{}
		s := open(t, h, Config{Quiet: time.Minute, Numbers: &Numbers{Channels: []string{"t", "h"}, Window: 3, Hop: 2}})
		go func() {
			for i := range 6 {
				time.Sleep(40 * time.Second) // slow, and not silent
				h.publish(fmt.Appendf(nil, `{"h":%d,"t":%d}`, 10*i, i))
				if i == 1 {
					h.publish([]byte("offline"))
				}
			}
		}()
		var f hal.Frame
		var got []string
		for range 4 {
			if err := s.Next(t.Context(), &f); err != nil {
				if errors.Is(err, hal.ErrBadFrame) {
					got = append(got, string(hal.CodeOf(err)))
					continue
				}
				got = append(got, string(hal.CodeOf(err)))
				break
			}
			got = append(got, fmt.Sprint(f.Seq, f.Samples, f.Channels))
		}
		want := "E_JSON; 1 [0 0 1 10 2 20] 2; 2 [2 20 3 30 4 40] 2; E_SOURCE_STALLED"
		if got := strings.Join(got, "; "); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

// The first message counts, also where the model says how many are in a window.
func TestFirst(t *testing.T) {
	for want, publish := range map[int][]string{0: {"7"}, 2: {"7", "8"}} {
		synctest.Test(t, func(t *testing.T) {
			h := &house{}
			s := open(t, h, Config{Quiet: time.Minute, Numbers: &Numbers{}})
			go func() {
				synctest.Wait()
				for _, p := range publish {
					h.publish([]byte(p))
				}
			}()
			var f hal.Frame
			f.Want.Samples = want
			if err := s.Next(t.Context(), &f); err != nil || len(f.Samples) != len(publish) || f.Samples[0] != 7 {
				t.Errorf("%d wanted: %v, %v", want, f.Samples, err)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	h := &house{}
	for _, tt := range []struct {
		c    Config
		want string
	}{
		{Config{Topic: "x"}, "no broker or no topic"},
		{Config{Subscribe: h.subscribe}, "no broker or no topic"},
		{Config{Subscribe: h.subscribe, Topic: "forbidden"}, `MQTT topic "forbidden": the broker says no`},
		{Config{Subscribe: h.subscribe, Topic: "x", Quiet: -1}, "give 0 or more"},
		{Config{Subscribe: h.subscribe, Topic: "x", Numbers: &Numbers{Format: "xml"}}, `numbers as "xml"`},
		{Config{Subscribe: h.subscribe, Topic: "x", Numbers: &Numbers{Window: -1}}, "window of -1 samples"},
	} {
		if _, err := Open(t.Context(), tt.c); hal.CodeOf(err) == "" || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want … %s", err, tt.want)
		}
	}
}

// mosquittoSub subscribes by a program, to a real broker.
func mosquittoSub(t *testing.T, port string) Subscribe {
	return func(_ context.Context, topic string, got func([]byte)) (func(), error) {
		c := exec.Command("mosquitto_sub", "-h", "127.0.0.1", "-p", port, "-t", topic, "-N", "-F", "%l:%p")
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := c.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := c.Start(); err != nil {
			return nil, err
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			r := bufio.NewReader(out)
			for {
				var n int
				if _, err := fmt.Fscanf(r, "%d:", &n); err != nil {
					return
				}
				payload := make([]byte, n)
				if _, err := io.ReadFull(r, payload); err != nil {
					return
				}
				got(payload)
			}
		}()
		return func() { c.Process.Kill(); <-done; c.Wait() }, nil
	}
}

// TestBroker: a picture and numbers by way of a real mosquitto.
func TestBroker(t *testing.T) {
	broker, err := exec.LookPath("mosquitto")
	if err != nil {
		broker = "/usr/sbin/mosquitto"
	}
	addr := port.Free(t)
	_, port, _ := net.SplitHostPort(addr)
	c := exec.Command(broker, "-p", port) // without a configuration it listens on this machine alone
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		t.Fatalf("start mosquitto: %v: sudo apt-get install mosquitto mosquitto-clients", err)
	}
	defer func() { c.Process.Kill(); c.Wait() }()
	for {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	file := filepath.Join(t.TempDir(), "picture.png")
	if err := os.WriteFile(file, picture(t, 200), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		c    Config
		args []string
		ok   func(f *hal.Frame) bool
	}{
		{Config{Topic: "cam/+/picture"}, []string{"-t", "cam/door/picture", "-f", file}, func(f *hal.Frame) bool { return f.Width == 9 && f.Planes[0][0] == 200 }},
		{Config{Topic: "zigbee2mqtt/#", Numbers: &Numbers{Channels: []string{"temperature", "humidity"}, Window: 1}}, []string{"-t", "zigbee2mqtt/room", "-m", `{"battery":90,"humidity":55,"temperature":21.5}`},
			func(f *hal.Frame) bool { return fmt.Sprint(f.Samples, f.Channels) == "[21.5 55] 2" }},
	} {
		tt.c.Subscribe = mosquittoSub(t, port)
		s, err := Open(t.Context(), tt.c)
		if err != nil {
			t.Fatal(err)
		}
		var f hal.Frame
		for { // until the subscription is there
			if b, err := exec.Command("mosquitto_pub", append([]string{"-h", "127.0.0.1", "-p", port}, tt.args...)...).CombinedOutput(); err != nil {
				t.Fatalf("publish: %v: %s", err, b)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			err := s.Next(ctx, &f)
			cancel()
			if err == nil {
				break
			}
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		}
		if !tt.ok(&f) {
			t.Errorf("%s: got %+v", tt.c.Topic, f)
		}
		s.Close()
	}
}
