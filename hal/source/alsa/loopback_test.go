package alsa

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

// TestLoopback records from a sound card of the kernel: snd-aloop, whose input is
// what another program plays on its output.
func TestLoopback(t *testing.T) {
	if !haltest.InVM() {
		haltest.VM(t, haltest.Machine{Modules: []string{"snd-aloop pcm_substreams=1"}, Files: programs(t)})
		return
	}
	tone := play(t, 1000)
	found := Probe(os.DirFS("/"))
	if len(found) == 0 || found[0].ID != "hw:CARD=Loopback,DEV=0" {
		t.Fatalf("probe: %+v", found)
	}
	config := Config{Device: "hw:CARD=Loopback,DEV=1", Rate: 16000, Mono: true, Window: 1600}
	s := open(t, config)
	var f hal.Frame
	for i := range 25 {
		if err := s.Next(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
		if i < 5 {
			continue // it begins with silence
		}
		if at, off := power(f.Samples, 1000), power(f.Samples, 1700); at < .05 || off > at/1e3 {
			t.Errorf("window %d: %v at 1000 Hz, %v at 1700 Hz", i, at, off)
		}
		if age := time.Since(f.Captured); age < 0 || age > 2*time.Second {
			t.Errorf("window %d was captured %v ago", i, age)
		}
	}
	t.Logf("recorded at %d Hz, %s, %d channels; %d overruns", s.record.rate, s.setup.format, s.setup.channels, s.Overruns())

	if _, err := Open(t.Context(), config); hal.CodeOf(err) != hal.CodeSource || !strings.Contains(err.Error(), "another program has it") {
		t.Errorf("opened twice: %v", err)
	}

	const driver = "/sys/bus/platform/drivers/snd_aloop/"
	write := func(file string) error { return os.WriteFile(driver+file, []byte("snd_aloop.0"), 0) }
	unbound := make(chan error, 1)
	go func() { unbound <- write("unbind") }() // which waits for the card to be let go
	var err error
	for err == nil {
		err = s.Next(t.Context(), &f)
	}
	if hal.CodeOf(err) != hal.CodeSourceLost {
		t.Errorf("unplugged: %v", err)
	}
	t.Log(err)
	s.Close()
	tone.Process.Kill()
	tone.Wait()
	if err := <-unbound; err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), config); hal.CodeOf(err) != hal.CodeSource {
		t.Errorf("opened while it is away: %v", err)
	}
	if err := write("bind"); err != nil {
		t.Fatal(err)
	}
	s = open(t, config)
	if err := s.Next(t.Context(), &f); err != nil {
		t.Errorf("plugged in again: %v", err)
	}
}

// play plays a tone into the card without end.
func play(t *testing.T, hz float64) *exec.Cmd {
	t.Helper()
	var second []byte
	for i := range 44100 {
		v := uint16(int16(16000 * math.Sin(2*math.Pi*hz*float64(i)/44100)))
		second = binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(second, v), v)
	}
	file := filepath.Join(t.TempDir(), "tone.raw")
	if err := os.WriteFile(file, bytes.Repeat(second, 60), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/bin/aplay", "-q", "-D", "hw:CARD=Loopback,DEV=0", "-t", "raw", "-f", "S16_LE", "-r", "44100", "-c", "2", file)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	time.Sleep(time.Second) // it has opened the card, which then has one rate only
	return cmd
}

// power is that of one frequency at 16 kHz, 1 for a tone of full size.
func power(samples []float32, hz float64) float64 {
	var re, im float64
	for i, v := range samples {
		s, c := math.Sincos(2 * math.Pi * hz * float64(i) / 16000)
		re, im = re+float64(v)*c, im+float64(v)*s
	}
	n := float64(len(samples)) / 2
	return (re*re + im*im) / n / n
}

// programs is arecord and aplay with all that they need.
func programs(t *testing.T) map[string]string {
	t.Helper()
	out, err := exec.Command("ldd", "/usr/bin/arecord").Output()
	if err != nil {
		t.Fatalf("ldd arecord: %v (apt-get install alsa-utils)", err)
	}
	files := map[string]string{"/usr/bin/arecord": "/usr/bin/arecord", "/usr/bin/aplay": "/usr/bin/aplay",
		"/usr/share/alsa/alsa.conf": "/usr/share/alsa/alsa.conf", "/usr/share/alsa/cards": "/usr/share/alsa/cards", "/usr/share/alsa/pcm": "/usr/share/alsa/pcm"}
	for _, lib := range regexp.MustCompile(`/\S+`).FindAllString(string(out), -1) {
		files[lib] = lib
	}
	return files
}
