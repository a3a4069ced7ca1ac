package mjpeg

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/source"
)

// picture is a JPEG of one grey.
func picture(t testing.TB, grey int) []byte {
	t.Helper()
	m := image.NewGray(image.Rect(0, 0, 16, 16))
	for i := range m.Pix {
		m.Pix[i] = byte(grey)
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, m, &jpeg.Options{Quality: 100}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A camera is a web server that sends pictures of growing grey.
type camera struct {
	t     testing.TB
	every time.Duration
	lie   bool // about boundary and length
	sent  atomic.Int64
}

func (c *camera) part(w io.Writer, p []byte) error {
	header := fmt.Sprintf("--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n", len(p))
	if c.lie {
		header = "frame\nContent-Length: 99999999999999999999\n\n"
	}
	_, err := fmt.Fprintf(w, "%s%s\r\n", header, p)
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
	return err
}

func (c *camera) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/snapshot.jpg" {
		w.Header().Set("Content-Type", "image/jpeg")
		w.Write(picture(c.t, int(c.sent.Add(1))%200))
		return
	}
	w.Header().Set("Content-Type", `multipart/x-mixed-replace; boundary="--frame"`)
	for r.Context().Err() == nil {
		p := picture(c.t, int(c.sent.Load()+1)%200)
		if c.part(w, p) != nil {
			return
		}
		c.sent.Add(1)
		time.Sleep(c.every)
	}
}

func serve(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func open(t testing.TB, c Config) *Source {
	t.Helper()
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// fails opens what has to fail with E_SOURCE, and returns the error.
func fails(t testing.TB, c Config) error {
	t.Helper()
	s, err := Open(t.Context(), c)
	if err == nil {
		s.Close()
		t.Fatal("it was opened")
	}
	if hal.CodeOf(err) != hal.CodeSource || strings.ContainsAny(err.Error(), "\n\r") {
		t.Errorf("got %q", err)
	}
	return err
}

func TestSuite(t *testing.T) {
	for _, path := range []string{"/video.mjpg", "/snapshot.jpg"} {
		for _, lie := range []bool{false, true} {
			s := serve(t, &camera{t: t, every: 5 * time.Millisecond, lie: lie})
			haltest.Source(t, func(t *testing.T) hal.Source { return open(t, Config{URL: s.URL + path, FPS: 200}) })
		}
	}
}

// Who comes late gets what is new: at most the picture before the one under way.
func TestNewest(t *testing.T) {
	c := &camera{t: t, every: 20 * time.Millisecond}
	s := open(t, Config{URL: serve(t, c).URL})
	var f hal.Frame
	worst := int64(0)
	for i := range 8 {
		if i > 0 {
			time.Sleep(150 * time.Millisecond)
		}
		sent := c.sent.Load()
		if err := s.Next(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
		worst = max(worst, sent-int64(f.Planes[0][0]))
	}
	t.Logf("at most %d pictures old", worst)
	if worst > 1 {
		t.Errorf("a picture that was %d pictures old", worst)
	}
	if f.Seq != 8 || !s.Live() {
		t.Errorf("seq %d, live %v", f.Seq, s.Live())
	}
}

// stream answers with a stream that do writes; it stays open until the client goes.
func stream(t testing.TB, do func(w http.ResponseWriter, flush func())) string {
	return serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "multipart/x-mixed-replace; boundary=x")
		do(w, w.(http.Flusher).Flush)
		<-r.Context().Done()
	})).URL
}

func TestStalled(t *testing.T) {
	for name, tail := range map[string]func(io.Writer, func()){
		"silent":        func(io.Writer, func()) {},
		"within a part": func(w io.Writer, _ func()) { w.Write(picture(t, 9)[:200]) },
		"a byte at times": func(w io.Writer, flush func()) {
			for range 100 {
				w.Write([]byte("-"))
				flush()
				time.Sleep(10 * time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			url := stream(t, func(w http.ResponseWriter, flush func()) {
				w.Write(picture(t, 5))
				flush()
				tail(w, flush)
				flush()
			})
			s := open(t, Config{URL: url, Stall: 300 * time.Millisecond})
			var f hal.Frame
			if err := s.Next(t.Context(), &f); err != nil || f.Planes[0][0] != 5 {
				t.Fatal(err)
			}
			if err := s.Next(t.Context(), &f); hal.CodeOf(err) != hal.CodeSourceStalled {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Between two single pictures as much time may go by as was asked for.
func TestSeldom(t *testing.T) {
	s := serve(t, &camera{t: t})
	source := open(t, Config{URL: s.URL + "/snapshot.jpg", FPS: 5, Stall: 150 * time.Millisecond})
	var f hal.Frame
	for range 3 {
		if err := source.Next(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
	}
}

// A camera that goes away in the midst of a picture is lost; Keep gets it back.
func TestCutAndBack(t *testing.T) {
	var visits atomic.Int64
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		visits.Add(1)
		w.Header().Set("Content-Type", "multipart/x-mixed-replace; boundary=x")
		w.Write(append([]byte("--x\r\n\r\n"), picture(t, 1)...))
		w.Write(append([]byte("\r\n--x\r\n\r\n"), picture(t, 2)[:100]...))
		w.Write(append([]byte("\r\n--x\r\n\r\n"), picture(t, 3)...))
		w.Write(picture(t, 4)[:100])
	}))
	one := open(t, Config{URL: s.URL})
	var f hal.Frame
	bad := 0
	for {
		err := one.Next(t.Context(), &f)
		if errors.Is(err, hal.ErrBadFrame) {
			bad++
		} else if err != nil {
			if hal.CodeOf(err) != hal.CodeSourceLost || !strings.Contains(err.Error(), "closed the connection") {
				t.Errorf("got %v", err)
			}
			break
		}
	}
	kept := source.Keep(source.Config{Live: true, Open: func(ctx context.Context) (hal.Source, error) { return Open(ctx, Config{URL: s.URL}) }})
	defer kept.Close()
	for {
		if err := kept.Next(t.Context(), &f); err != nil && !errors.Is(err, hal.ErrBadFrame) {
			t.Fatal(err)
		}
		if st := kept.Status(); st.Opened == 2 && st.State == source.Live {
			if st.Faults[hal.CodeSourceLost] != 1 {
				t.Errorf("faults %v", st.Faults)
			}
			break
		}
	}
	if visits.Load() != 3 {
		t.Errorf("%d visits", visits.Load())
	}
}

func TestBadPictures(t *testing.T) {
	url := stream(t, func(w http.ResponseWriter, flush func()) {
		w.Write([]byte("--x\r\n\r\n\xff\xd8\xff\xda\x00\x02nothing\xff\xd9")) // whole, and no picture
		flush()
	})
	s := open(t, Config{URL: url})
	if err := s.Next(t.Context(), new(hal.Frame)); !errors.Is(err, hal.ErrBadFrame) || hal.CodeOf(err) != hal.CodeImage {
		t.Errorf("got %v", err)
	}
}

func TestRefusals(t *testing.T) {
	html := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/page":
			w.Header().Set("Content-Type", "text/html")
		case "/header":
			w.Header().Set("X", strings.Repeat("x", 1<<20))
		case "/round":
			http.Redirect(w, r, "/round", http.StatusFound)
		case "/elsewhere":
			http.Redirect(w, r, "http://other.example/secret?token=t", http.StatusFound)
		case "/slow":
			time.Sleep(time.Second)
		default:
			http.NotFound(w, r)
		}
	}))
	gone := httptest.NewServer(nil)
	gone.Close()
	for _, tt := range []struct{ url, want string }{
		{"", "write it as http://"},
		{"rtsp://192.168.1.20/x", "write it as http://"},
		{"http://user:pass\x7f@h/", "write it as http://"},
		{"http:///video", "write it as http://"},
		{html.URL + "/page", `"text/html", which is no picture`},
		{html.URL + "/none?pwd=hush", "404 Not Found: check the path"},
		{html.URL + "/header", "exceeded"},
		{html.URL + "/round", "redirects without end"},
		{html.URL + "/elsewhere", "sends us to http://other.example, which is another place"},
		{html.URL + "/slow?pwd=hush", "no answer in 300ms"},
		{gone.URL + "/?pwd=hush", "connection refused: check that it is on"},
	} {
		err := fails(t, Config{URL: tt.url, Stall: 300 * time.Millisecond})
		if !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: got %v", tt.url, err)
		}
	}
	if err := fails(t, Config{URL: html.URL, User: "a\nb"}); !strings.Contains(err.Error(), "control character") {
		t.Errorf("got %v", err)
	}
	if err := fails(t, Config{URL: html.URL, FPS: -1}); !strings.Contains(err.Error(), "0 to 1000") {
		t.Errorf("got %v", err)
	}
}

// A server that says its header a byte at a time does not hold us.
func TestSlowHeader(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.Read(make([]byte, 4096))
		for _, b := range "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1000) {
			if _, err := c.Write([]byte(string(b))); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	if err := fails(t, Config{URL: "http://" + l.Addr().String(), Stall: 300 * time.Millisecond}); !strings.Contains(err.Error(), "no answer in 300ms") {
		t.Errorf("got %v", err)
	}
}

func TestRedirectWithinTheCamera(t *testing.T) {
	c := &camera{t: t, every: 5 * time.Millisecond}
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/old" {
			http.Redirect(w, r, "/new?x=1", http.StatusMovedPermanently)
			return
		}
		digestServer("u", "p", "MD5", c)(w, r)
	}))
	if err := open(t, Config{URL: s.URL + "/old", User: "u", Password: "p"}).Next(t.Context(), new(hal.Frame)); err != nil {
		t.Error(err)
	}
}

func TestTLS(t *testing.T) {
	s := httptest.NewTLSServer(&camera{t: t, every: 5 * time.Millisecond})
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(s.Close)
	if err := fails(t, Config{URL: s.URL}); !strings.Contains(err.Error(), "name the file of its CA") {
		t.Errorf("got %v", err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open(t, Config{URL: s.URL, CAFile: ca}).Next(t.Context(), new(hal.Frame)); err != nil {
		t.Error(err)
	}
	if err := fails(t, Config{URL: s.URL, CAFile: ca + "x"}); !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(ca, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := fails(t, Config{URL: s.URL, CAFile: ca}); !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("got %v", err)
	}
}

// Close does not wait for a camera, and Open ends with its context.
func TestEnds(t *testing.T) {
	url := stream(t, func(w http.ResponseWriter, flush func()) { flush() })
	s := open(t, Config{URL: url})
	began := time.Now()
	if err := s.Close(); err != nil || time.Since(began) > 5*time.Second {
		t.Errorf("closed with %v after %v", err, time.Since(began))
	}
	silent := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began = time.Now()
	if _, err := Open(ctx, Config{URL: silent.URL}); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 5*time.Second {
		t.Errorf("got %v after %v", err, time.Since(began))
	}
}
