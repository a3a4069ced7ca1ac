package alsa

import (
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
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/signal"
)

// speech is a sentence at 48 kHz, in the bytes of 16-bit sound.
func speech(t testing.TB, dir string) (path string, samples []float32) {
	t.Helper()
	file := filepath.Join(dir, "speech.wav")
	if out, err := exec.Command("espeak-ng", "-w", file, "the quick brown fox jumps over the lazy dog").CombinedOutput(); err != nil {
		t.Fatalf("espeak-ng: %v %s (apt-get install espeak-ng)", err, out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r, err := signal.NewResampler(1, 22050, 48000)
	if err != nil {
		t.Fatal(err)
	}
	var raw []byte
	for _, v := range r.Flush(r.Resample(nil, signal.PCMInt16.Decode(nil, b[44:]))) {
		raw = binary.LittleEndian.AppendUint16(raw, uint16(int16(math.Round(float64(v)*32767))))
	}
	path = filepath.Join(dir, "speech.raw")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, signal.PCMInt16.Decode(nil, raw)
}

// fileDevice makes ALSA's file plugin play a file into a device "speech".
func fileDevice(t testing.TB) (samples []float32) {
	t.Helper()
	if _, err := exec.LookPath("arecord"); err != nil {
		t.Fatal("no arecord: apt-get install alsa-utils")
	}
	dir := t.TempDir()
	path, samples := speech(t, dir)
	conf := filepath.Join(dir, "asound.conf")
	text := fmt.Sprintf("pcm.speech { type file slave.pcm { type null } file /dev/null infile %q format raw }\n", path)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ALSA_CONFIG_PATH", conf)
	return samples
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

func TestSource(t *testing.T) {
	fileDevice(t)
	haltest.Source(t, func(t *testing.T) hal.Source {
		s, err := Open(t.Context(), Config{Device: "speech", Rate: 16000, Window: 1600, Hop: 800})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

// TestSpeech: through ALSA comes what was said, sample for sample.
func TestSpeech(t *testing.T) {
	samples := fileDevice(t)
	for _, rate := range []int{16000, 48000, 0} {
		want := samples
		if rate == 16000 {
			r, err := signal.NewResampler(1, 48000, rate)
			if err != nil {
				t.Fatal(err)
			}
			want = r.Resample(nil, samples)
		}
		s := open(t, Config{Device: "speech", Rate: rate, Window: 500})
		var got []float32
		var f hal.Frame
		for len(got)+500 <= len(want) {
			if err := s.Next(t.Context(), &f); err != nil {
				t.Fatal(err)
			}
			got = append(got, f.Samples...)
		}
		if len(got) < 30000 || !slices.Equal(got, want[:len(got)]) {
			t.Errorf("at %d Hz: %d samples, equal: %v", rate, len(got), slices.Equal(got, want[:len(got)]))
		}
		if f.Channels != 1 || rate > 0 && f.Rate != float64(rate) || rate == 0 && f.Rate != 48000 || s.Overruns() != 0 || !s.Live() {
			t.Errorf("at %d Hz: %d channels, %v Hz, %d overruns", rate, f.Channels, f.Rate, s.Overruns())
		}
	}
}

// standIn is a program that behaves as arecord does on a device with the faults of
// script. It is asked twice: for what the device can do, and for its sound.
func standIn(t *testing.T, dump, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "arecord")
	text := "#!/bin/sh\ncase \"$*\" in *--dump-hw-params*)\n" + dump + "\n;;*)\n" + script + "\n;;esac\n"
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

const card = "printf 'HW Params of device \"hw:1\":\\nFORMAT:  S16_LE S32_LE\\nCHANNELS: 2\\nRATE: [44100 48000]\\n' >&2; exit 1"

func TestFaults(t *testing.T) {
	say := func(s string) string { return "echo '" + s + "' >&2; exit 1" }
	for name, tt := range map[string]struct {
		dump, script string
		c            Config
		code         hal.Code
		want         string
	}{
		"absent":      {say("arecord: main:831: audio open error: No such file or directory"), "", Config{}, hal.CodeSource, "covey-agent probe lists"},
		"busy":        {say("arecord: main:831: audio open error: Device or resource busy"), "", Config{}, hal.CodeSource, "another program has it"},
		"not allowed": {say("arecord: main:831: audio open error: Permission denied"), "", Config{}, hal.CodeSource, "usermod -aG audio covey"},
		"strange":     {say("arecord: something new"), "", Config{}, hal.CodeSource, `arecord says "arecord: something new"`},
		"nothing":     {"exit 3", "", Config{}, hal.CodeSource, "without a word"},
		"format":      {"printf 'FORMAT: S8\\nCHANNELS: 2\\nRATE: 8000\\n' >&2", "", Config{}, hal.CodeSource, "cannot be read"},
		"channels":    {card, "", Config{Channels: []int{5}}, hal.CodeSource, "2 channels, 0 to 1, and no channel 5"},
		"refused":     {card, say("arecord: set_params:1352: Channels count non available"), Config{}, hal.CodeSource, "Channels count non available"},
		"unplugged":   {card, "head -c 40000 /dev/zero; " + say("arecord: pcm_read:2221: read error: No such device"), Config{}, hal.CodeSourceLost, "went away: there is no such device"},
		"stalled":     {card, "head -c 40000 /dev/zero; sleep 60", Config{}, hal.CodeSourceStalled, "no sound for"},
		"silent":      {card, "sleep 60", Config{}, hal.CodeSourceStalled, "no sound for"},
		"negative":    {card, "", Config{Channels: []int{-1}}, hal.CodeConfig, "channel -1"},
		"window":      {card, "", Config{Window: -1}, hal.CodeConfig, "window of -1"},
	} {
		tt.c.Program, tt.c.Device = standIn(t, tt.dump, tt.script), "hw:1"
		s, err := Open(t.Context(), tt.c)
		if err == nil {
			s.quiet = 100 * time.Millisecond
			var f hal.Frame
			f.Want.Samples = 1000
			for err == nil {
				err = s.Next(t.Context(), &f)
			}
			began := time.Now()
			s.Close()
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("%s: Close took %v", name, took)
			}
		}
		if hal.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := Open(t.Context(), Config{Program: "/none/arecord"})
	if hal.CodeOf(err) != hal.CodeSource || !strings.Contains(err.Error(), "apt-get install alsa-utils") {
		t.Errorf("no program: %v", err)
	}
}

// TestAnotherRate: a device that takes another rate than it was asked for is
// believed.
func TestAnotherRate(t *testing.T) {
	s := open(t, Config{Rate: 16000, Window: 160, Program: standIn(t, card,
		"echo 'Warning: rate is not accurate (requested = 48000Hz, got = 44100Hz)' >&2; cat /dev/zero")})
	var f hal.Frame
	if err := s.Next(t.Context(), &f); err != nil || s.record.rate != 44100 || f.Rate != 16000 || f.Channels != 2 {
		t.Errorf("%v; recorded at %d, given at %v of %d channels", err, s.record.rate, f.Rate, f.Channels)
	}
}

// TestOverrun: no window goes over a gap.
func TestOverrun(t *testing.T) {
	s := open(t, Config{Window: 64, Program: standIn(t, card,
		`printf '\001\000\001\000\001\000\001\000'; sleep .2; echo 'overrun!!! (at least 12.345 ms long)' >&2; head -c 4096 /dev/zero; sleep 60`)})
	var f hal.Frame
	if err := s.Next(t.Context(), &f); err != nil {
		t.Fatal(err)
	}
	if s.Overruns() != 1 || slices.Max(f.Samples) != 0 {
		t.Errorf("%d overruns, samples %v", s.Overruns(), f.Samples)
	}
}

// TestWholeGroupEnds: what the program has started ends with it.
func TestWholeGroupEnds(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	held, err := os.OpenFile(pipe, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	s := open(t, Config{Window: 8, Program: standIn(t, card, "exec 3>"+pipe+"; sleep 60 & head -c 4096 /dev/zero; wait")})
	if err := s.Next(t.Context(), new(hal.Frame)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	held.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := held.Read(make([]byte, 1)); err != io.EOF { // all ends are closed
		t.Errorf("something still runs: %d, %v", n, err)
	}
}

func TestEnds(t *testing.T) {
	s := open(t, Config{Program: standIn(t, card, "sleep 60")})
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if err := s.Next(ctx, new(hal.Frame)); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, Config{Program: standIn(t, "sleep 60", "")}); !errors.Is(err, context.Canceled) {
		t.Errorf("Open: %v", err)
	}
}

// TestClock: late reads do not make sound late, drift is followed, a gap is seen.
func TestClock(t *testing.T) {
	var c clock
	begin := time.Unix(1000, 0)
	const piece = 20 * time.Millisecond
	for i := range 10000 {
		taken := begin.Add(time.Duration(i) * (piece + piece/20000)) // a card that is 50 ppm slow
		now := taken
		if i%10 > 3 {
			now = begin.Add(time.Duration(i/10*10+10) * piece) // it waited
		}
		if now.Before(taken) {
			now = taken
		}
		if off := c.read(now, piece).Sub(taken); i > 100 && off.Abs() > 2*time.Millisecond {
			t.Fatalf("piece %d: off by %v", i, off)
		}
	}
	later := c.at.Add(time.Minute)
	if got := c.read(later, piece); got != later {
		t.Errorf("after a gap: %v", later.Sub(got))
	}
}

func TestChoose(t *testing.T) {
	for _, tt := range []struct {
		text string
		rate int
		pick []int
		want string
	}{
		{"FORMAT:  S16_LE\nCHANNELS: [1 2]\nRATE: [8000 48000]\n", 16000, nil, "S16_LE 16000 1"},
		{"FORMAT:  S24_3LE S32_LE\nCHANNELS: 2\nRATE: 48000\n", 16000, nil, "S32_LE 48000 2"},
		{"FORMAT:  S16_LE\nCHANNELS: [1 6]\nRATE: [44100 48000]\n", 0, []int{0, 3}, "S16_LE 48000 4"},
		{"FORMAT:  S16_LE\nCHANNELS: [1 2]\nRATE: (7000 32000]\n", 48000, nil, "S16_LE 32000 1"},
		{"FORMAT:  S8 FLOAT_LE\nCHANNELS: [1 1073741823]\nRATE: [1 4294967295]\n", 16000, nil, "FLOAT_LE 48000 1"},
	} {
		h, ok := parseHardware(tt.text)
		s, err := h.choose(tt.rate, tt.pick)
		if got := fmt.Sprint(s.format, " ", s.rate, " ", s.channels); !ok || err != nil || got != tt.want {
			t.Errorf("%q: got %s, %v", tt.text, got, err)
		}
	}
	for _, text := range []string{"", "FORMAT: S16_LE\nRATE: 8000\n", "FORMAT: S16_LE\nCHANNELS: NONE\nRATE: 8000\n", "FORMAT: S16_LE\nCHANNELS: [2 1]\nRATE: 8000\n", "FORMAT: S16_LE\nCHANNELS: 0\nRATE: 1\n"} {
		if h, ok := parseHardware(text); ok {
			t.Errorf("%q: %+v", text, h)
		}
	}
}

func TestProbe(t *testing.T) {
	root := fstest.MapFS{
		"proc/asound/cards": {Data: []byte(` 0 [Headphones     ]: bcm2835_headpho - bcm2835 Headphones
                      bcm2835 Headphones
 1 [Device         ]: USB-Audio - USB PnP Sound Device
                      C-Media Electronics Inc. USB PnP Sound Device at usb-0000:01:00.0-1.3, full speed
`)},
		"proc/asound/pcm": {Data: []byte("00-00: bcm2835 Headphones : bcm2835 Headphones : playback 8\n01-00: USB Audio : USB Audio : playback 1 : capture 1\n01-02: Digital : x : capture 1\n")},
	}
	want := []hal.Input{
		{Source: "alsa", ID: "hw:CARD=Device,DEV=0", Name: "USB PnP Sound Device", Detail: "USB Audio"},
		{Source: "alsa", ID: "hw:CARD=Device,DEV=2", Name: "USB PnP Sound Device", Detail: "Digital"},
	}
	if got := Probe(root); !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := Probe(fstest.MapFS{}); got != nil {
		t.Errorf("nothing there: %+v", got)
	}
}

func FuzzHardware(f *testing.F) {
	f.Add("FORMAT:  S16_LE\nCHANNELS: [1 2]\nRATE: (7000 32000]\n", 16000, 1)
	f.Fuzz(func(t *testing.T, text string, rate, pick int) {
		h, ok := parseHardware(text)
		if !ok || pick < 0 || pick > 255 || rate < 0 {
			return
		}
		s, err := h.choose(rate, []int{pick})
		if err == nil && (s.rate < h.rate[0] || s.rate > h.rate[1] || s.channels < h.channels[0] || s.channels > h.channels[1] || s.pcm.Size() == 0) {
			t.Fatalf("%+v of %+v", s, h)
		}
	})
}
