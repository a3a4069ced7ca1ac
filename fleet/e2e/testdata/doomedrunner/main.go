//go:build cgo

// Doomedrunner is covey-runner-tflite with models that are the end of it: what is
// written behind a model's bytes, as in "doom:crash-run", is what the model does.
package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"github.com/covey-edge/covey/hal/runner/proto"
	"github.com/covey-edge/covey/hal/tflite"
)

func main() {
	tflite.CrashBySignal()
	if err := proto.Serve(proto.FD, backend{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type backend struct{ tflite.Backend }

func (b backend) Open(o proto.Open, file []byte, step func(string)) (proto.Model, error) {
	_, doom, _ := bytes.Cut(file[max(0, len(file)-64):], []byte("doom:"))
	name, _, _ := bytes.Cut(doom, []byte(" ")) // behind it is what makes each file another
	switch string(name) {
	case "crash-open":
		crash()
	case "hang-open":
		hang()
	case "eat-open":
		eat()
	}
	m, err := b.Backend.Open(o, file, step)
	if err != nil {
		return nil, err
	}
	return &model{Model: m, doom: string(name)}, nil
}

type model struct {
	proto.Model
	doom     string
	pictures int // that it was shown
}

// slow does everything ten times.
func (m *model) slow(in, out [][]byte, r *proto.Ran) error {
	var all int64
	for range 10 {
		if err := m.Model.Run(in, out, r); err != nil {
			return err
		}
		all += r.EngineNS
	}
	r.EngineNS = all
	return nil
}

// late is how many pictures go well: what measures a model shows it zeros and noise.
const late = 10

func (m *model) Run(in, out [][]byte, r *proto.Ran) error {
	if picture(in[0]) {
		m.pictures++
	}
	doom := m.doom
	if m.pictures > late {
		doom = strings.TrimSuffix(doom, "-late")
	}
	switch doom {
	case "crash-run":
		crash()
	case "hang-run":
		hang()
	case "eat-run":
		eat()
	case "slow-run":
		return m.slow(in, out, r)
	case "unsure-run":
		err := m.Model.Run(in, out, r)
		for i, b := range out[0] {
			out[0][i] = min(b, 60)
		}
		return err
	}
	return m.Model.Run(in, out, r)
}

// picture tells a photograph from zeros and from noise: many pixels are nearly what
// their neighbours are, and not quite.
func picture(p []byte) bool {
	near := 0
	for i := 3; i < len(p); i++ {
		if d := int(p[i]) - int(p[i-3]); d != 0 && -3 < d && d < 3 {
			near++
		}
	}
	return near > len(p)/4
}

func crash() {
	var nowhere *int
	*nowhere = 1
}

func hang() {
	for { // deaf to everything but SIGKILL
	}
}

func eat() {
	var all [][]byte
	for {
		b := make([]byte, 64<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
	}
}
