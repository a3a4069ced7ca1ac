package serial

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/source/numbers"
)

// terminal makes a pseudo-terminal: what is written to the master comes out of the
// port with the given path.
func terminal(t testing.TB) (master *os.File, path string) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	master = os.NewFile(uintptr(fd), "master")
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	return master, fmt.Sprintf("/dev/pts/%d", n)
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

func send(t testing.TB, master *os.File, text string) {
	t.Helper()
	if _, err := master.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func TestSource(t *testing.T) {
	haltest.Source(t, func(t *testing.T) hal.Source {
		master, path := terminal(t)
		s := open(t, Config{Device: path, Window: 3, Hop: 1})
		send(t, master, "2,3\n1,2\n\x80\xff\n3,4\n5,6\n7,8\n9,10\n11,12\n13,14\n")
		return s
	})
}

// TestWindows: lines as a board sends them, in pieces that are no lines.
func TestWindows(t *testing.T) {
	master, path := terminal(t)
	s := open(t, Config{Device: path, Format: numbers.JSON, Channels: []string{"t", "h"}, Window: 2})
	before := time.Now()
	go func() {
		for _, piece := range []string{`"h":3}`, "\r\n{\"t\":1,", `"h":2}` + "\r\n\r\n{", `"t":3,"h":4,"x":true}` + "\n{\"t\":5}\n{\"t\":5,\"h\":6}\n", "{\"t\":7,\"h\":8}\n"} {
			master.WriteString(piece)
			time.Sleep(time.Millisecond)
		}
	}()
	var f hal.Frame
	var got []string
	for range 3 {
		switch err := s.Next(t.Context(), &f); {
		case errors.Is(err, hal.ErrBadFrame):
			got = append(got, err.Error())
		case err != nil:
			t.Fatal(err)
		default:
			got = append(got, fmt.Sprint(f.Samples))
		}
	}
	want := []string{"[1 2 3 4]", "serial port " + path + `: bad frame: "h": no number there`, "[5 6 7 8]"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if f.Seq != 2 || f.Channels != 2 || f.Rate != 0 || f.Captured.Before(before) || time.Since(f.Captured) < 0 {
		t.Errorf("got %+v", f)
	}
}

func TestUnplugged(t *testing.T) {
	master, path := terminal(t)
	s := open(t, Config{Device: path})
	send(t, master, "x\n1\n")
	var f hal.Frame
	if err := s.Next(t.Context(), &f); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.Next(t.Context(), &f) }()
	master.Close()
	if err := <-done; hal.CodeOf(err) != hal.CodeSourceLost {
		t.Errorf("got %v", err)
	}
}

// TestQuiet: silence and garbage are told after a while; what came while nobody
// asked is not lost.
func TestQuiet(t *testing.T) {
	master, path := terminal(t)
	s := open(t, Config{Device: path, Quiet: 50 * time.Millisecond})
	var f hal.Frame
	began := time.Now()
	if err := s.Next(t.Context(), &f); hal.CodeOf(err) != hal.CodeSourceStalled || time.Since(began) < 40*time.Millisecond {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	send(t, master, "x\n5\n")
	if err := s.Next(t.Context(), &f); err != nil || f.Samples[0] != 5 {
		t.Errorf("late: %v %v", f.Samples, err)
	}
	stop := make(chan bool)
	ended := make(chan bool)
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				master.WriteString("\x00\xff\n")
				time.Sleep(time.Millisecond)
			}
		}
	}()
	for {
		err := s.Next(t.Context(), &f)
		if hal.CodeOf(err) == hal.CodeSourceStalled {
			break
		}
		if !errors.Is(err, hal.ErrBadFrame) {
			t.Fatalf("garbage: %v", err)
		}
	}
	close(stop)
	<-ended
}

func TestEnds(t *testing.T) {
	master, path := terminal(t)
	s := open(t, Config{Device: path})
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if err := s.Next(ctx, new(hal.Frame)); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	}
	send(t, master, "x\n7\n")
	var f hal.Frame
	if err := s.Next(t.Context(), &f); err != nil || f.Samples[0] != 7 {
		t.Errorf("after canceled waits: %v %v", f.Samples, err)
	}
}

// TestPort: the port is raw, has the rate, and is ours alone.
func TestPort(t *testing.T) {
	master, path := terminal(t)
	s := open(t, Config{Device: path, Baud: 250000})
	got, err := unix.IoctlGetTermios(int(s.file.Fd()), unix.TCGETS2)
	if err != nil {
		t.Fatal(err)
	}
	if got.Ospeed != 250000 || got.Lflag&(unix.ECHO|unix.ICANON|unix.ISIG) != 0 || got.Iflag&(unix.ICRNL|unix.IXON) != 0 || got.Cflag&unix.HUPCL != 0 {
		t.Errorf("%+v", got)
	}
	if err := unix.SetNonblock(int(master.Fd()), true); err != nil {
		t.Fatal(err)
	}
	send(t, master, "1\n")
	if n, err := unix.Read(int(master.Fd()), make([]byte, 9)); n > 0 {
		t.Errorf("the port echoes %d bytes (%v)", n, err)
	}
	if os.Geteuid() == 0 {
		return // root may open what is taken
	}
	if _, err := Open(Config{Device: path}); hal.CodeOf(err) != hal.CodeSource || !strings.Contains(err.Error(), "another program has it") {
		t.Errorf("opened twice: %v", err)
	}
}

func TestRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		c    Config
		code hal.Code
		want string
	}{
		{Config{Device: "/dev/serial/by-id/usb-none"}, hal.CodeSource, "plug it in"},
		{Config{Device: file}, hal.CodeSource, "no serial port"},
		{Config{Device: file, Baud: 7}, hal.CodeConfig, "7 baud"},
		{Config{Device: file, Format: "xml"}, hal.CodeConfig, "csv or json"},
		{Config{Device: file, Window: -1}, hal.CodeConfig, "window of -1"},
	} {
		if _, err := Open(tt.c); hal.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt.c, err)
		}
	}
	for err, want := range map[error]string{unix.EACCES: "usermod -aG dialout covey", unix.EBUSY: "another program", unix.ENODEV: "plug it in", unix.EIO: "input/output"} {
		if got := explain(err); !strings.Contains(got, want) {
			t.Errorf("%v: %s", err, got)
		}
	}
}

func TestProbe(t *testing.T) {
	link := func(to string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(to), Mode: fs.ModeSymlink} }
	dir := &fstest.MapFile{Mode: fs.ModeDir}
	root := fstest.MapFS{
		"dev/serial/by-id/usb-FTDI_FT232R_A5002-if00-port0": link("../../ttyUSB0"),
		"sys/class/tty/ttyUSB0/device":                      dir,
		"sys/class/tty/ttyAMA0/device/driver":               link("../../bus/amba/drivers/uart-pl011"),
		"sys/class/tty/ttyAMA0/type":                        {Data: []byte("32\n")},
		"sys/class/tty/ttyS1/device":                        dir,
		"sys/class/tty/ttyS1/type":                          {Data: []byte("0\n")},
		"sys/class/tty/tty1":                                dir,
	}
	want := []hal.Input{
		{Source: "serial", ID: "/dev/serial/by-id/usb-FTDI_FT232R_A5002-if00-port0", Name: "FTDI_FT232R_A5002-if00-port0", Detail: "ttyUSB0"},
		{Source: "serial", ID: "/dev/ttyAMA0", Name: "ttyAMA0", Detail: "uart-pl011"},
	}
	if got := Probe(root); !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := Probe(fstest.MapFS{}); got != nil {
		t.Errorf("nothing there: %+v", got)
	}
}

// FuzzLines: whatever pieces bytes come in, the lines are the same, and none is
// longer than allowed.
func FuzzLines(f *testing.F) {
	f.Add([]byte("1\n2\n\n3"), uint16(2))
	f.Add([]byte(strings.Repeat("x", 5000)+"\n1\n"), uint16(100))
	f.Fuzz(func(t *testing.T, b []byte, piece uint16) {
		cut := func(n int) (got []string, memory int) {
			l := lines{skip: true}
			for b := b; len(b) > 0; b = b[min(n, len(b)):] {
				l.add(b[:min(n, len(b))])
				for {
					line, ok, err := l.next()
					if err != nil {
						continue
					}
					if !ok {
						break
					}
					if len(line) > mostLine || strings.Contains(string(line), "\n") {
						t.Fatalf("line of %d bytes", len(line))
					}
					got = append(got, string(line))
				}
				memory = max(memory, len(l.buf))
			}
			return got, memory
		}
		got, memory := cut(1 + int(piece)%1024)
		want, _ := cut(1)
		if !slices.Equal(got, want) || memory > mostLine {
			t.Fatalf("got %q, byte by byte %q; %d bytes kept", got, want, memory)
		}
	})
}
