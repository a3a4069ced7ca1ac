package sim

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"time"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

// A Script is what a model does, written behind the bytes of its file. The zero value
// is a model that works.
type Script struct {
	Tag     string  `json:"tag,omitempty"`     // makes files differ
	Crash   int     `json:"crash,omitempty"`   // its runner dies at this run, from 1
	Hang    int     `json:"hang,omitempty"`    // this run takes too long
	Fails   int     `json:"fails,omitempty"`   // every run from this one on is an error
	Latency int     `json:"latency,omitempty"` // of a run, ms; 0: 5
	Score   float64 `json:"score,omitempty"`   // of its first label; 0: 0.9
	Refuse  bool    `json:"refuse,omitempty"`  // it does not open
}

var mark = []byte("\nsim:")

// Model is a model's file: a picture of 8×8 in, four scores out.
func Model(s Script) []byte {
	b := haltest.TFLite(haltest.Op{Code: haltest.OpReshape}, 1,
		haltest.Tensor("picture", 3, 1, 8, 8, 3), haltest.Tensor("scores", haltest.Float32Type, 1, 4))
	text, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return append(append(b, mark...), text...)
}

// An engine is one of haltest's under the name of a real one, whose sessions keep to
// their model's script.
type engine struct{ *haltest.FakeEngine }

func newEngine() engine {
	return engine{&haltest.FakeEngine{
		Inputs:  []hal.TensorInfo{{Name: "picture", Type: hal.Uint8, Shape: []int{1, 8, 8, 3}}},
		Outputs: []hal.TensorInfo{{Name: "scores", Type: hal.Float32, Shape: []int{1, 4}}},
	}}
}

// Name is the one of the files that it takes.
func (engine) Name() string { return "tflite" }

// Open opens a model and reads its script.
func (e engine) Open(ctx context.Context, m hal.Model, o hal.Options) (hal.Session, error) {
	file, err := os.ReadFile(m.Path)
	if err != nil {
		return nil, err
	}
	var s Script
	if _, text, ok := bytes.Cut(file, mark); ok {
		if err := json.Unmarshal(text, &s); err != nil {
			return nil, err
		}
	}
	if s.Refuse {
		return nil, &hal.Error{Code: hal.CodeOp, Text: "operator DANCE is not known to this engine"}
	}
	inner, err := e.FakeEngine.Open(ctx, m, o)
	if err != nil {
		return nil, err
	}
	return &session{Session: inner, script: s}, nil
}

type session struct {
	hal.Session
	script Script
	runs   int
}

// Run does what the script says of this run.
func (s *session) Run(buf int) (hal.Timing, error) {
	s.runs++
	took := time.Duration(cmp.Or(s.script.Latency, 5)) * time.Millisecond
	time.Sleep(took)
	switch {
	case s.runs == s.script.Crash:
		return hal.Timing{}, haltest.Crash()
	case s.runs == s.script.Hang:
		return hal.Timing{}, haltest.Hang()
	case s.script.Fails > 0 && s.runs >= s.script.Fails:
		return hal.Timing{}, &hal.Error{Code: hal.CodeInvoke, Text: "the model does not like this picture"}
	}
	t, err := s.Session.Run(buf)
	if err != nil {
		return t, err
	}
	out := s.Session.Output(buf, 0).Data
	clear(out)
	binary.LittleEndian.PutUint32(out, math.Float32bits(float32(cmp.Or(s.script.Score, 0.9))))
	t.Engine = took
	return t, nil
}
