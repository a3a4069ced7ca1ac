package folder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/vision"
)

// picture is a PNG of one grey.
func picture(t testing.TB, grey byte) []byte {
	t.Helper()
	m := image.NewGray(image.Rect(0, 0, 6, 4))
	for i := range m.Pix {
		m.Pix[i] = grey
	}
	m.SetGray(5, 3, color.Gray{1})
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func write(t testing.TB, dir, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, c Config) *Source {
	t.Helper()
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// names reads n frames; a bad one is "bad".
func names(t *testing.T, s *Source, n int) string {
	t.Helper()
	var got []string
	var f hal.Frame
	for range n {
		switch err := s.Next(t.Context(), &f); {
		case errors.Is(err, hal.ErrBadFrame):
			got = append(got, "bad")
		case errors.Is(err, io.EOF):
			got = append(got, "end")
		case err != nil:
			t.Fatal(err)
		default:
			got = append(got, fmt.Sprintf("%s=%d", f.Name, f.Planes[0][0]))
		}
	}
	return strings.Join(got, " ")
}

func TestSource(t *testing.T) {
	dir := t.TempDir()
	for i := range 3 {
		write(t, dir, fmt.Sprintf("%d.png", i), picture(t, byte(i)))
	}
	write(t, dir, "1a.jpg", []byte("no picture"))
	for _, c := range []Config{{Path: dir}, {Path: dir, Loop: true}, {Path: dir, FPS: 500}} {
		haltest.Source(t, func(t *testing.T) hal.Source { return open(t, c) })
	}
	write(t, dir, "3.png", picture(t, 3))
	write(t, dir, "4.png", picture(t, 4))
	haltest.Source(t, func(t *testing.T) hal.Source { return open(t, Config{Path: dir, Watch: true}) })
}

func TestOrder(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "b.PNG", picture(t, 20))
	write(t, dir, "a.png", picture(t, 10))
	write(t, dir, "c.jpg", []byte("text"))
	write(t, dir, "d.png", picture(t, 30))
	write(t, dir, "e.png", nil)
	write(t, dir, "notes.txt", []byte("text"))
	write(t, dir, ".hidden.png", picture(t, 1))
	if err := os.Mkdir(filepath.Join(dir, "more.png"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "pipe.png"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, Config{Path: dir})
	if got, want := names(t, s, 7), "a.png=10 b.PNG=20 bad d.png=30 bad end end"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if s.Live() {
		t.Error("a folder is not live")
	}
}

func TestBadFrameSaysWhy(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "cut.png", picture(t, 1)[:40])
	err := open(t, Config{Path: dir}).Next(t.Context(), new(hal.Frame))
	if !errors.Is(err, hal.ErrBadFrame) || hal.CodeOf(err) != hal.CodeImage || !strings.HasPrefix(err.Error(), "picture cut.png: ") {
		t.Errorf("got %v", err)
	}
}

func TestLoop(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.png", picture(t, 10))
	write(t, dir, "b.png", picture(t, 20))
	s := open(t, Config{Path: dir, Loop: true})
	if got, want := names(t, s, 3), "a.png=10 b.png=20 a.png=10"; got != want {
		t.Errorf("got %s", got)
	}
	os.Remove(filepath.Join(dir, "b.png"))
	write(t, dir, "c.png", picture(t, 30))
	if got, want := names(t, s, 3), "a.png=10 c.png=30 a.png=10"; got != want {
		t.Errorf("a folder that changed: got %s", got)
	}
	var f hal.Frame
	if s.Next(t.Context(), &f); f.Seq != 7 {
		t.Errorf("Seq %d", f.Seq)
	}
}

// TestBarrenLoop: a loop over nothing but broken pictures does not spin.
func TestBarrenLoop(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.png", []byte("text"))
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Config{Path: dir, Loop: true})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		n := 0
		for ctx.Err() == nil {
			if err := s.Next(ctx, new(hal.Frame)); errors.Is(err, hal.ErrBadFrame) {
				n++
			}
		}
		if n < 10 || n > 13 {
			t.Errorf("%d tries in 10 s", n)
		}
	})
}

func TestPace(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.png", picture(t, 10))
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Config{Path: dir, Loop: true, FPS: 4})
		began := time.Now()
		names(t, s, 9)
		if got := time.Since(began); got != 2*time.Second {
			t.Errorf("9 frames at 4 a second took %v", got)
		}
	})
}

// TestWatch: a picture is taken when it is complete, whatever way it comes.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "m.png", picture(t, 1))
	s := open(t, Config{Path: dir, Watch: true})
	if got := names(t, s, 1); got != "m.png=1" {
		t.Fatalf("what is there comes first: got %s", got)
	}

	slow, err := os.Create(filepath.Join(dir, "a.png"))
	if err != nil {
		t.Fatal(err)
	}
	b := picture(t, 2)
	slow.Write(b[:30])
	write(t, dir, "tmp", picture(t, 3))
	if err := os.Rename(filepath.Join(dir, "tmp"), filepath.Join(dir, "b.png")); err != nil {
		t.Fatal(err)
	}
	if got := names(t, s, 1); got != "b.png=3" {
		t.Errorf("a file that is still written must wait: got %s", got)
	}
	slow.Write(b[30:])
	slow.Close()
	if got := names(t, s, 1); got != "a.png=2" {
		t.Errorf("closed: got %s", got)
	}

	write(t, dir, "b.png", picture(t, 200)) // another size than before, whatever the clock of the file system
	if got := names(t, s, 1); got != "b.png=200" {
		t.Errorf("written again: got %s", got)
	}
	os.Remove(filepath.Join(dir, "b.png"))
	write(t, dir, "c.txt", nil)
	write(t, dir, "c.png", picture(t, 5))
	if got := names(t, s, 1); got != "c.png=5" {
		t.Errorf("new: got %s", got)
	}
	if _, ok := s.done["b.png"]; ok {
		t.Error("what was removed is still remembered")
	}
}

// TestWatchTakesOnce: a picture that came between the begin of watching and the
// first look is told twice and taken once.
func TestWatchTakesOnce(t *testing.T) {
	dir := t.TempDir()
	w, err := watch(dir)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "a.png", picture(t, 1))
	s := &Source{c: Config{Path: dir, Watch: true, Decode: vision.DecodePicture}, watcher: w, done: map[string]stamp{}}
	defer s.Close()
	if err := s.look(); err != nil {
		t.Fatal(err)
	}
	first := names(t, s, 1)
	write(t, dir, "b.png", picture(t, 2))
	if got := first + " " + names(t, s, 1); got != "a.png=1 b.png=2" {
		t.Errorf("got %s", got)
	}
}

func TestWatchOverflow(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Path: dir, Watch: true})
	write(t, dir, "a.png", picture(t, 1))
	if got := names(t, s, 1); got != "a.png=1" {
		t.Fatal(got)
	}
	write(t, dir, "b.png", picture(t, 2))
	record := make([]byte, unix.SizeofInotifyEvent)
	record[5] = unix.IN_Q_OVERFLOW >> 8
	events, err := s.watcher.parse(record)
	if err != nil || len(events) != 1 || !events[0].overflow {
		t.Fatalf("%+v %v", events, err)
	}
	if err := s.look(); err != nil { // as wait does
		t.Fatal(err)
	}
	if got := names(t, s, 1); got != "b.png=2" {
		t.Errorf("got %s: a is done", got)
	}
}

func TestWatchEnds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "in")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, Config{Path: dir, Watch: true})
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if err := s.Next(ctx, new(hal.Frame)); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	}
	write(t, dir, "a.png", picture(t, 7))
	if got := names(t, s, 1); got != "a.png=7" {
		t.Errorf("after canceled waits: got %s", got)
	}
	os.RemoveAll(dir)
	if err := s.Next(t.Context(), new(hal.Frame)); hal.CodeOf(err) != hal.CodeSourceLost || !strings.Contains(err.Error(), "is gone: make it again") {
		t.Errorf("folder gone: %v", err)
	}
}

func TestRefused(t *testing.T) {
	empty := t.TempDir()
	file := filepath.Join(empty, "f.txt")
	write(t, empty, "f.txt", nil)
	for _, tt := range []struct {
		c    Config
		code hal.Code
		want string
	}{
		{Config{Path: empty}, hal.CodeSource, "has no pictures"}, {Config{Path: empty + "/none"}, hal.CodeSource, "is not there: make it"},
		{Config{Path: empty + "/none", Watch: true}, hal.CodeSource, "is not there: make it"},
		{Config{Path: file, Watch: true}, hal.CodeSource, "is no folder"}, {Config{Path: file}, hal.CodeSource, "is no folder"},
		{Config{Path: empty, Loop: true, Watch: true}, hal.CodeConfig, "exclude each other"}, {Config{Path: empty, FPS: -1}, hal.CodeConfig, "frames a second"},
	} {
		if _, err := Open(tt.c); hal.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got %v, want %s … %s", tt.c, err, tt.code, tt.want)
		}
	}
}

// TestDecode: what the source is given to decode with is used, and told what is wanted.
func TestDecode(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.jpg", []byte("one"))
	write(t, dir, "b.jpg", []byte("two"))
	bad := errors.New("no")
	s := open(t, Config{Path: dir, Decode: func(file []byte, f *hal.Frame) error {
		if string(file) == "two" {
			return bad
		}
		f.Width, f.Height = f.Want.Width, f.Want.Height
		return nil
	}})
	var f hal.Frame
	f.Want.Width, f.Want.Height = 30, 20
	if err := s.Next(t.Context(), &f); err != nil || f.Width != 30 || f.Height != 20 {
		t.Errorf("%v, %d×%d", err, f.Width, f.Height)
	}
	if err := s.Next(t.Context(), &f); !errors.Is(err, bad) || !errors.Is(err, hal.ErrBadFrame) {
		t.Errorf("got %v", err)
	}
}
