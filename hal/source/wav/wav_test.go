package wav

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/signal"
)

type chunk struct {
	id   string
	body []byte
	size int64 // that the file says; 0: the true one
}

// riff is a file of chunks.
func riff(kind string, size uint32, chunks ...chunk) []byte {
	b := append([]byte(kind), 0, 0, 0, 0, 'W', 'A', 'V', 'E')
	for _, c := range chunks {
		n := uint32(len(c.body))
		if c.size != 0 {
			n = uint32(c.size)
		}
		b = append(b, c.id...)
		b = binary.LittleEndian.AppendUint32(b, n)
		b = append(b, c.body...)
		if len(c.body)%2 != 0 {
			b = append(b, 0)
		}
	}
	if size == 1 {
		size = uint32(len(b) - 8)
	}
	binary.LittleEndian.PutUint32(b[4:], size)
	return b
}

func format(tag, channels, rate, bits int) chunk {
	b := binary.LittleEndian.AppendUint16(nil, uint16(tag))
	b = binary.LittleEndian.AppendUint16(b, uint16(channels))
	b = binary.LittleEndian.AppendUint32(b, uint32(rate))
	b = binary.LittleEndian.AppendUint32(b, uint32(rate*channels*((bits+7)/8)))
	b = binary.LittleEndian.AppendUint16(b, uint16(channels*((bits+7)/8)))
	b = binary.LittleEndian.AppendUint16(b, uint16(bits))
	return chunk{id: "fmt ", body: b}
}

func extended(tag, channels, rate, bits int) chunk {
	c := format(tagExtensible, channels, rate, bits)
	c.body = append(c.body, 22, 0, byte(bits), 0, 3, 0, 0, 0, byte(tag), 0)
	c.body = append(c.body, extensible...)
	return c
}

// pcm16 is samples of 16 bits, counting from 1.
func pcm16(n int) []byte {
	var b []byte
	for i := range n {
		b = binary.LittleEndian.AppendUint16(b, uint16(i+1))
	}
	return b
}

func mono16(n int) []byte {
	return riff("RIFF", 1, format(1, 1, 8000, 16), chunk{id: "data", body: pcm16(n)})
}

func write(t testing.TB, dir, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newSource(t testing.TB, c Config) *Source {
	t.Helper()
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestSource(t *testing.T) {
	dir := t.TempDir()
	one := write(t, dir, "a.wav", mono16(1000))
	write(t, dir, "b.wav", []byte("no sound"))
	write(t, dir, "c.WAV", mono16(1000))
	for _, c := range []Config{
		{Path: one, Window: 300}, {Path: dir, Window: 300, Hop: 100, Loop: true},
		{Path: one, Window: 160, Hop: 80, Rate: 16000, Live: true}, {Path: dir, Window: 4000}, {Path: dir},
	} {
		haltest.Source(t, func(t *testing.T) hal.Source { return newSource(t, c) })
	}
}

// TestFormats: each way to store samples, each kind of header.
func TestFormats(t *testing.T) {
	f64 := func(v ...float64) (b []byte) {
		for _, v := range v {
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
		}
		return b
	}
	f32 := binary.LittleEndian.AppendUint32(nil, math.Float32bits(.25))
	ds64 := make([]byte, 28)
	binary.LittleEndian.PutUint64(ds64[8:], 4)
	list := chunk{id: "LIST", body: []byte("odd")}
	for name, tt := range map[string]struct {
		file []byte
		want string
	}{
		"8 bit":            {riff("RIFF", 1, format(1, 1, 8000, 8), chunk{id: "data", body: []byte{0, 128, 192}}), "[-1 0 0.5]"},
		"16 bit":           {riff("RIFF", 1, list, format(1, 1, 8000, 16), list, chunk{id: "data", body: []byte{0, 0x80, 0, 0x40}}, list), "[-1 0.5]"},
		"24 bit":           {riff("RIFF", 1, extended(1, 1, 8000, 24), chunk{id: "data", body: []byte{0, 0, 0x80, 0, 0, 0x40}}), "[-1 0.5]"},
		"20 bit":           {riff("RIFF", 1, format(1, 1, 8000, 20), chunk{id: "data", body: []byte{0, 0, 0x80, 0, 0, 0x40}}), "[-1 0.5]"},
		"32 bit":           {riff("RIFF", 1, format(1, 1, 8000, 32), chunk{id: "data", body: []byte{0, 0, 0, 0x80}}), "[-1]"},
		"float":            {riff("RIFF", 1, format(3, 1, 8000, 32), chunk{id: "data", body: f32}), "[0.25]"},
		"double":           {riff("RIFF", 1, extended(3, 1, 8000, 64), chunk{id: "data", body: f64(.25, math.NaN(), -.5)}), "[0.25 0 -0.5]"},
		"stereo":           {riff("RIFF", 1, format(1, 2, 8000, 8), chunk{id: "data", body: []byte{0, 128, 192, 128, 1}}), "[-1 0 0.5 0]"},
		"RF64":             {riff("RF64", whole, chunk{id: "ds64", body: ds64}, format(1, 1, 8000, 16), chunk{id: "data", body: []byte{0, 0x80, 0, 0x40}, size: whole}, list), "[-1 0.5]"},
		"to a pipe":        {riff("RIFF", whole, format(1, 1, 8000, 16), chunk{id: "data", body: []byte{0, 0x80, 0, 0x40}, size: whole}), "[-1 0.5]"},
		"never finished":   {riff("RIFF", 0, format(1, 1, 8000, 16), chunk{id: "data", body: []byte{0, 0x80, 0, 0x40}, size: 1 << 32}), "[-1 0.5]"},
		"36 and 0":         {riff("RIFF", 36, format(1, 1, 8000, 16), chunk{id: "data", body: []byte{0, 0x80}, size: 1 << 32}), "[-1]"},
		"truncated":        {append(riff("RIFF", 9999, format(1, 1, 8000, 16), chunk{id: "data", body: []byte{0, 0x80}, size: 9000}), 7), "[-1]"},
		"empty, then more": {riff("RIFF", 1, format(1, 1, 8000, 16), chunk{id: "data"}, list), "it has no sound"},
		"empty":            {mono16(0), "it has no sound"},
	} {
		path := write(t, t.TempDir(), "x.wav", tt.file)
		s := newSource(t, Config{Path: path, Window: 1})
		var got []float32
		var f hal.Frame
		err := error(nil)
		for {
			if err = s.Next(t.Context(), &f); err != nil {
				break
			}
			got = append(got, f.Samples...)
		}
		said := fmt.Sprint(got)
		if err != io.EOF {
			said = err.Error()
		}
		if !strings.Contains(said, tt.want) {
			t.Errorf("%s: got %s, want %s", name, said, tt.want)
		}
	}
}

func TestRefused(t *testing.T) {
	data := chunk{id: "data", body: pcm16(4)}
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe.wav")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	many := riff("RIFF", 1, append(slices.Repeat([]chunk{{id: "junk"}}, mostChunks), data)...)
	for name, tt := range map[string]struct {
		c    Config
		file []byte
		code hal.Code
		want string
	}{
		"absent":       {c: Config{Path: "/none/x.wav", Window: 1}, code: hal.CodeSource, want: "/none/x.wav: no such file"},
		"pipe":         {c: Config{Path: pipe, Window: 1}, code: hal.CodeSource, want: "not a plain file"},
		"no files":     {c: Config{Path: t.TempDir(), Window: 1}, code: hal.CodeSource, want: "has no WAV files"},
		"no window":    {c: Config{Window: -1}, file: mono16(4), code: hal.CodeConfig, want: "window of -1"},
		"channel":      {c: Config{Window: 1, Channels: []int{1}}, file: mono16(4), code: hal.CodeConfig, want: "channel 1 of a source of 1"},
		"rate":         {c: Config{Window: 1, Rate: -5}, file: mono16(4), code: hal.CodeConfig, want: "resample"},
		"text":         {c: Config{Window: 1}, file: []byte("0123456789abcdef"), code: hal.CodeSource, want: "not a WAV file"},
		"nothing":      {c: Config{Window: 1}, file: nil, code: hal.CodeSource, want: "ends before its sound"},
		"big-endian":   {c: Config{Window: 1}, file: riff("RIFX", 1, data), code: hal.CodeSource, want: "not a WAV file"},
		"cut":          {c: Config{Window: 1}, file: mono16(4)[:30], code: hal.CodeSource, want: "ends before its sound"},
		"no format":    {c: Config{Window: 1}, file: riff("RIFF", 1, data), code: hal.CodeSource, want: "before its format"},
		"short format": {c: Config{Window: 1}, file: riff("RIFF", 1, chunk{id: "fmt ", body: make([]byte, 14)}, data), code: hal.CodeSource, want: "cut short"},
		"µ-law":        {c: Config{Window: 1}, file: riff("RIFF", 1, format(7, 1, 8000, 8), data), code: hal.CodeSource, want: "format 0x7 with 8 bits"},
		"0 channels":   {c: Config{Window: 1}, file: riff("RIFF", 1, format(1, 0, 8000, 16), data), code: hal.CodeSource, want: "0 channels"},
		"0 Hz":         {c: Config{Window: 1}, file: riff("RIFF", 1, format(1, 1, 0, 16), data), code: hal.CodeSource, want: "0 samples a second"},
		"endless":      {c: Config{Window: 1}, file: many, code: hal.CodeSource, want: "no sound in its first"},
	} {
		if tt.c.Path == "" {
			tt.c.Path = write(t, t.TempDir(), "x.wav", tt.file)
		}
		if _, err := Open(tt.c); hal.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFolder: files in the order of their names, each padded, bad ones told.
func TestFolder(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.wav", mono16(5))
	write(t, dir, "b.wav", []byte("no sound at all"))
	write(t, dir, "c.wav", mono16(2))
	write(t, dir, "d.wav", mono16(0))
	write(t, dir, "notes.txt", []byte("text"))
	write(t, dir, ".e.wav", mono16(3))
	s := newSource(t, Config{Path: dir, Window: 3, Loop: true})
	var got []string
	var f hal.Frame
	for range 7 {
		err := s.Next(t.Context(), &f)
		if errors.Is(err, hal.ErrBadFrame) {
			got = append(got, "bad")
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		line := f.Name
		for _, v := range f.Samples {
			line += fmt.Sprint(" ", v*32768)
		}
		got = append(got, line)
	}
	if got, want := strings.Join(got, ", "), "a.wav 1 2 3, a.wav 4 5 0, bad, c.wav 1 2 0, bad, a.wav 1 2 3, a.wav 4 5 0"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if f.Seq != 5 || f.Rate != 8000 || f.Channels != 1 {
		t.Errorf("got %+v", f)
	}
}

// TestPace: a live source takes as long as its sound, and after a pause does not
// hurry to catch up.
func TestPace(t *testing.T) {
	path := write(t, t.TempDir(), "a.wav", mono16(8000))
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t, Config{Path: path, Window: 800, Hop: 400, Live: true})
		took := func(n int) time.Duration {
			began := time.Now()
			for range n {
				if err := s.Next(t.Context(), new(hal.Frame)); err != nil {
					t.Fatal(err)
				}
			}
			return time.Since(began)
		}
		if got := took(11); got != 500*time.Millisecond {
			t.Errorf("11 windows took %v", got)
		}
		time.Sleep(time.Minute)
		if got := took(3); got != 100*time.Millisecond {
			t.Errorf("3 windows after a pause took %v", got)
		}
		if !s.Live() {
			t.Error("not live")
		}
	})
}

// TestBarrenLoop: a loop over nothing that can be read does not spin.
func TestBarrenLoop(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.wav", []byte("text"))
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t, Config{Path: dir, Window: 10, Loop: true})
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

// TestSpeech: what a real program says, to a file and to a pipe, at another rate.
func TestSpeech(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "speech.wav")
	text := "the quick brown fox jumps over the lazy dog"
	if out, err := exec.Command("espeak-ng", "-w", path, text).CombinedOutput(); err != nil {
		t.Fatalf("espeak-ng: %v %s (apt-get install espeak-ng)", err, out)
	}
	piped, err := exec.Command("espeak-ng", "--stdout", text).Output()
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	samples := signal.PCMInt16.Decode(nil, file[44:])
	r, err := signal.NewResampler(1, 22050, 16000)
	if err != nil {
		t.Fatal(err)
	}
	want := r.Flush(r.Resample(nil, samples))
	for name, path := range map[string]string{"file": path, "pipe": write(t, dir, "piped.wav", piped)} {
		s := newSource(t, Config{Path: path, Window: 1000, Rate: 16000})
		var got []float32
		var f hal.Frame
		for {
			err := s.Next(t.Context(), &f)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(f.Samples) != 1000 || f.Rate != 16000 {
				t.Fatalf("%d samples at %v Hz", len(f.Samples), f.Rate)
			}
			got = append(got, f.Samples...)
		}
		if len(want) < 16000 || len(got) < len(want) || len(got) >= len(want)+1000 || !slices.Equal(got[:len(want)], want) {
			t.Errorf("%s: %d samples, want %d and silence; equal: %v", name, len(got), len(want), slices.Equal(got[:min(len(got), len(want))], want))
		}
		power := 0.
		for _, v := range got {
			power += float64(v * v)
		}
		if rms := math.Sqrt(power / float64(len(got))); rms < .01 || rms > .5 {
			t.Errorf("%s: %v is not the loudness of speech", name, rms)
		}
	}
}

// TestNoAllocation: a window within a file costs none.
func TestNoAllocation(t *testing.T) {
	path := write(t, t.TempDir(), "a.wav", riff("RIFF", 1, format(1, 2, 48000, 16), chunk{id: "data", body: make([]byte, 1<<21)}))
	s := newSource(t, Config{Path: path, Window: 160, Rate: 16000, Mono: true})
	var f hal.Frame
	turn := func() {
		if err := s.Next(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		turn()
	}
	if n := testing.AllocsPerRun(200, turn); n != 0 {
		t.Errorf("%v allocations a window", n)
	}
}

func FuzzStream(f *testing.F) {
	f.Add(mono16(9))
	f.Add(riff("RF64", whole, format(1, 2, 44100, 24), chunk{id: "data", body: pcm16(30), size: whole}))
	f.Add(riff("RIFF", 0, extended(3, 1, 8000, 64), chunk{id: "LIST", body: []byte("x")}, chunk{id: "data", body: pcm16(30)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := new(stream)
		if err := s.beginAt(bytes.NewReader(b), Config{Window: 5, Hop: 3}); err != nil {
			return
		}
		var frame hal.Frame
		n := 0
		for s.next(&frame) == nil {
			n++
			if len(frame.Samples) != 5*s.channels {
				t.Fatalf("%d samples of %d channels", len(frame.Samples), s.channels)
			}
			for _, v := range frame.Samples {
				if v != v {
					t.Fatal("not a number")
				}
			}
		}
		if n > len(b)/3+1 {
			t.Fatalf("%d windows of %d bytes", n, len(b))
		}
	})
}
