package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/covey-edge/covey/fleet/blob/pack"
	"github.com/covey-edge/covey/fleet/wire"
)

// request is how many blocks a board asks for at a time, about.
const request = 32

// A change is what becomes of a model's weights from one version to the next.
type change struct {
	name string
	make func(r *rand.Rand, old []byte, w []span, float bool) []byte
}

// A span is a part of a file.
type span struct{ at, n int }

func changes() []change {
	part := func(p float64) func(*rand.Rand, []byte, []span, bool) []byte {
		return func(r *rand.Rand, old []byte, w []span, float bool) []byte { return tuned(r, old, w, float, p) }
	}
	return []change{
		{"head retrained", func(r *rand.Rand, old []byte, w []span, float bool) []byte {
			head := slices.MaxFunc(w, func(a, b span) int { return a.n - b.n })
			return shuffled(r, old, []span{head}, float)
		}},
		{"5 % of weights ±1", part(0.05)},
		{"20 % of weights ±1", part(0.2)},
		{"50 % of weights ±1", part(0.5)},
		{"5 % of weights ±1, 16 bytes put in", func(r *rand.Rand, old []byte, w []span, float bool) []byte {
			return slices.Insert(tuned(r, old, w, float, 0.05), 1000, make([]byte, 16)...)
		}},
		{"all weights retrained", func(r *rand.Rand, old []byte, w []span, float bool) []byte { return shuffled(r, old, w, float) }},
	}
}

// tuned moves a part of the weights: quantised ones by one, others by about a hundredth.
func tuned(r *rand.Rand, old []byte, w []span, float bool, part float64) []byte {
	b := bytes.Clone(old)
	step := 1
	if float {
		step = 4
	}
	for _, s := range w {
		for at := s.at; at+step <= s.at+s.n; at += step {
			switch {
			case r.Float64() >= part:
			case float:
				f := math.Float32frombits(binary.LittleEndian.Uint32(b[at:]))
				binary.LittleEndian.PutUint32(b[at:], math.Float32bits(f*float32(1+0.01*r.NormFloat64())))
			default:
				b[at] += byte(1 - 2*int(r.Uint32()&1))
			}
		}
	}
	return b
}

// shuffled puts the weights into any order: as many of each as before, and nothing in
// common.
func shuffled(r *rand.Rand, old []byte, w []span, float bool) []byte {
	b := bytes.Clone(old)
	step := 1
	if float {
		step = 4
	}
	for _, s := range w {
		part := b[s.at : s.at+s.n/step*step]
		r.Shuffle(len(part)/step, func(i, j int) {
			for k := range step {
				part[i*step+k], part[j*step+k] = part[j*step+k], part[i*step+k]
			}
		})
	}
	return b
}

// delta counts what an update brings over the network when the version before is on
// the board, and what others need for it.
func (b *bench) delta(ctx context.Context) ([]row, error) {
	var rows []row
	for _, m := range []struct {
		name, file string
		float      bool
	}{{"MobileNet quantised", "label_image/mobilenet_quant_v1_224.tflite", false}, {"DeepLab float", "segment/deeplabv3_257_mv_gpu.tflite", true}} {
		old, err := os.ReadFile(filepath.Join(b.models, m.file))
		if err != nil {
			return nil, err
		}
		w, err := weights(old)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.file, err)
		}
		for _, c := range changes() {
			next := c.make(rand.New(rand.NewPCG(1, 2)), old, w, m.float)
			name := fmt.Sprintf("update of %s, %s: ", m.name, c.name)
			n, err := travels(old, next)
			if err != nil {
				return nil, err
			}
			rows = append(rows, measured(name+"covey", "kB", []float64{float64(n) / 1e3}, noGoal))
			for _, t := range deltaPeers {
				r := measured(name+t.name, "kB", nil, noGoal)
				n, err := t.size(ctx, b.work, old, next)
				if err != nil {
					r.Verdict = err.Error()
				} else {
					r = measured(name+t.name, "kB", []float64{float64(n) / 1e3}, noGoal)
				}
				rows = append(rows, r)
			}
		}
	}
	return rows, nil
}

// travels is what goes to a board that has old and is to have next: it copies the
// blocks that it has, and gets the others as differences.
func travels(old, next []byte) (n int, err error) {
	have := map[[sha256.Size]byte]bool{}
	for block := range slices.Chunk(old, wire.BlockSize) {
		have[sha256.Sum256(block)] = true
	}
	p, base := pack.NewPacker(1), (*pack.Base)(nil)
	u, err := pack.NewUnpacker()
	if err != nil {
		return 0, err
	}
	defer u.Close()
	asked := 0
	for at := 0; at < len(next); at += wire.BlockSize {
		block := next[at:min(at+wire.BlockSize, len(next))]
		if have[sha256.Sum256(block)] {
			continue
		}
		if asked%request == 0 {
			base = &pack.Base{R: bytes.NewReader(old)}
		}
		asked++
		packed := p.Pack(nil, block, int64(at), base)
		if got, err := u.Unpack(packed, bytes.NewReader(old)); err != nil || !bytes.Equal(got, block) {
			return 0, fmt.Errorf("block at %d does not come back: %v", at, err)
		}
		n += len(packed)
	}
	return n, nil
}

// A deltaPeer is a program that makes a difference of two files, or packs the second.
type deltaPeer struct {
	name string
	args []string // OLD, NEW and OUT stand for files
}

var deltaPeers = []deltaPeer{
	{"zstd -19, whole file", []string{"zstd", "-q", "-f", "-19", "NEW", "-o", "OUT"}},
	{"zstd -19 --patch-from", []string{"zstd", "-q", "-f", "-19", "--long=27", "--patch-from=OLD", "NEW", "-o", "OUT"}},
	{"bsdiff", []string{"bsdiff", "OLD", "NEW", "OUT"}},
}

func (p deltaPeer) size(ctx context.Context, folder string, old, next []byte) (int64, error) {
	if _, err := exec.LookPath(p.args[0]); err != nil {
		return 0, fmt.Errorf("not measured: run: apt-get install %s", p.args[0])
	}
	paths := map[string]string{}
	for name, b := range map[string][]byte{"OLD": old, "NEW": next, "OUT": nil} {
		paths[name] = filepath.Join(folder, "delta-"+name)
		if err := os.WriteFile(paths[name], b, 0o600); err != nil {
			return 0, err
		}
	}
	args := slices.Clone(p.args)
	for i, a := range args {
		if a == "--patch-from=OLD" {
			args[i] = "--patch-from=" + paths["OLD"]
		} else if path := paths[a]; path != "" {
			args[i] = path
		}
	}
	if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%s: %w: %.200s", p.name, err, out)
	}
	fi, err := os.Stat(paths["OUT"])
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// weights finds the large buffers of a TFLite file, which is a flatbuffer: the table of
// the model, its fifth field, and in each buffer's table the first.
func weights(b []byte) (list []span, err error) {
	defer func() {
		if recover() != nil {
			err = fmt.Errorf("not a TFLite file")
		}
	}()
	u32 := func(at int) int { return int(binary.LittleEndian.Uint32(b[at:])) }
	vector := func(table, slot int) int { // where the elements' count is; 0: none
		fields := table - int(int32(u32(table)))
		if 4+2*slot >= int(binary.LittleEndian.Uint16(b[fields:])) {
			return 0
		}
		in := int(binary.LittleEndian.Uint16(b[fields+4+2*slot:]))
		if in == 0 {
			return 0
		}
		return table + in + u32(table+in)
	}
	buffers := vector(u32(0), 4)
	for i := range u32(buffers) {
		at := buffers + 4 + 4*i
		data := vector(at+u32(at), 0)
		if data == 0 || u32(data) < 1024 {
			continue
		}
		_ = b[data+4+u32(data)-1]
		list = append(list, span{data + 4, u32(data)})
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no weights found")
	}
	return list, nil
}
