package ladder_test

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/ladder"
	"github.com/covey-edge/covey/hal/runner"
)

// real is a ladder before the real runner of TFLite, with one more accelerator.
func real(t testing.TB, extra hal.Accelerator, settings map[string]string, remembered []byte) *ladder.Engine {
	t.Helper()
	inner := runner.New(runner.Config{Name: "tflite", Program: haltest.Program(t, "covey-runner-tflite"), Logger: zerolog.Nop()})
	c := ladder.Config{Inner: inner, Order: ladder.TFLite, Memory: ladder.Remember(shelf(remembered), zerolog.Nop()), Log: zerolog.Nop(), Cores: 2,
		Settings: map[hal.Accelerator][]map[string]string{}}
	if extra != "" {
		c.Extra = []hal.Device{{Accelerator: extra, Name: "stand-in"}}
		c.Settings[extra] = []map[string]string{settings}
	}
	return ladder.New(c)
}

func write(t testing.TB, b []byte) hal.Model {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m.tflite")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return hal.Model{Name: "m", Path: path}
}

// A delegate that goes wrong loses, each in its own words, to what works; the
// runner that it took along is nobody else's.
func TestDelegates(t *testing.T) {
	library := haltest.Delegate(t)
	external := hal.Accelerator("external:" + library)
	for mode, want := range map[string]string{
		"":               " times as long as |as fast as ", // it works; a call into it may still cost more
		"refuse":         "E_ACCEL",
		"null":           "E_ACCEL",
		"crash-create":   "E_CRASH",
		"hang-create":    "E_TIMEOUT",
		"fail-prepare":   "E_ACCEL",
		"crash-prepare":  "E_CRASH",
		"hang-prepare":   "E_TIMEOUT",
		"crash-allocate": "E_CRASH",
		"fail-invoke":    "E_INVOKE: ",
		"crash-invoke":   "E_CRASH",
		"hang-invoke":    "E_TIMEOUT",
		"wrong":          "E_DISAGREE: on zeros: output 0 (z): element 0 is 1, the CPU gives 0",
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			settings := map[string]string{"mode": mode}
			if mode == "" {
				settings = nil
			}
			begin := time.Now()
			s, err := real(t, external, settings, nil).Open(t.Context(), write(t, haltest.AddModel()), hal.Options{OpenTimeout: 3 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			i := s.Info()
			if mode == "" && i.Accelerator == external {
				return // it won
			}
			found := false
			for _, a := range i.Tried {
				if a.Accelerator != external {
					continue
				}
				for alternative := range strings.SplitSeq(want, "|") {
					found = found || strings.Contains(a.Reason, alternative)
				}
				t.Logf("%v: %s", time.Since(begin).Round(time.Millisecond), a.Reason)
			}
			if !found || i.Accelerator == external {
				t.Errorf("on %s; the delegate lost by %v, want %q", i.Accelerator, i.Tried, want)
			}
			if _, err := s.Run(0); err != nil {
				t.Errorf("the winner: %v", err)
			}
		})
	}
}

// XNNPACK agrees with the plain CPU on each of the real models, and one of the two runs them.
func TestRealModels(t *testing.T) {
	for _, name := range []string{"label_image/mobilenet_quant_v1_224.tflite", "ssd/detect.tflite", "segment/deeplabv3_257_mv_gpu.tflite"} {
		e := real(t, "", nil, nil)
		m := hal.Model{Name: filepath.Base(name), Path: filepath.Join(haltest.Models(t), name)}
		s, err := e.Open(t.Context(), m, hal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		i := s.Info()
		t.Logf("%s: %s, %d threads; %+v", m.Name, i.Accelerator, i.Threads, i.Tried)
		// On a machine with much else to do two threads may be slower than one: which of
		// the CPU's two ways is faster the bench says. Both have to agree.
		lost := i.Accelerator != hal.XNNPACK && !slices.ContainsFunc(i.Tried, func(a hal.Attempt) bool {
			return a.Accelerator == hal.XNNPACK && strings.Contains(a.Reason, "times as long as")
		})
		if lost || i.Accelerator != hal.XNNPACK && i.Accelerator != hal.CPU {
			t.Errorf("%s runs on %s; tried %+v", m.Name, i.Accelerator, i.Tried)
		}
	}
}

// A delegate that goes wrong after a while gives way to the next rung within five
// seconds, with the pauses of a pipeline that opens its session again.
func TestRealFallback(t *testing.T) {
	external := hal.Accelerator("external:" + haltest.Delegate(t))
	m := write(t, haltest.AddModel())
	b, err := os.ReadFile(m.Path)
	if err != nil {
		t.Fatal(err)
	}
	o := hal.Options{Order: []hal.Accelerator{external, hal.CPU}, Threads: 1}
	for mode, want := range map[string]string{"hang-invoke": "E_TIMEOUT", "crash-invoke": "E_CRASH", "fail-invoke": "E_INVOKE"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			settings := map[string]string{"mode": mode, "after": "3"}
			remembered, err := json.Marshal(map[string]any{"format": ladder.Format, "models": []ladder.Record{{
				Model: fmt.Sprintf("%x", sha256.Sum256(b)), Name: "m", Engine: "tflite", Asked: fmt.Sprintf(`%[1]s cpu; threads 1; device ""; settings map[%[1]s:[%[2]v]]`, external, settings),
				Choices:   []ladder.Choice{{Accelerator: external, Threads: 1, Settings: settings}, {Accelerator: hal.CPU, Threads: 1}},
				Reference: time.Millisecond,
			}}})
			if err != nil {
				t.Fatal(err)
			}
			e := real(t, external, settings, remembered)
			s, err := e.Start(t.Context(), m, o)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { s.Close() }()
			if a := s.Info().Accelerator; a != external {
				t.Fatalf("starts on %s", a)
			}
			var failed time.Time
			for pause := 200 * time.Millisecond; s.Info().Accelerator == external; {
				_, err := s.Run(0)
				if err != nil && failed.IsZero() {
					failed = time.Now()
				}
				if !errors.Is(err, hal.ErrLost) {
					continue
				}
				s.Close()
				time.Sleep(pause)
				pause *= 2
				if s, err = e.Start(t.Context(), m, o); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := s.Run(0); err != nil {
				t.Errorf("the rung below: %v", err)
			}
			took := time.Since(failed)
			t.Logf("served again after %v: %s", took.Round(time.Millisecond), s.Info().Degraded)
			if took > 5*time.Second || !strings.Contains(s.Info().Degraded, want) {
				t.Errorf("served again after %v, degraded: %q, want %s", took, s.Info().Degraded, want)
			}
		})
	}
}

// A shelf is a Store.
type shelf []byte

func (s shelf) Load() ([]byte, error) { return s, nil }
func (s shelf) Save([]byte) error     { return nil }
