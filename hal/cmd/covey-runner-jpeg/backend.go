//go:build cgo

package main

/*
#cgo LDFLAGS: -ldl
#include "turbo.h"
*/
import "C"

import (
	"fmt"
	"strings"
	"time"
	"unsafe"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/jpeg"
	"github.com/covey-edge/covey/hal/runner/proto"
)

// fix is what a person can do where the library is missing.
const fix = "sudo apt-get install libturbojpeg0"

// A backend decodes with libturbojpeg, or says why it cannot.
type backend struct {
	turbo   *C.covey_turbo
	missing string // why there is no library
}

var _ proto.Backend = backend{}

// load looks for the library. It is kept for as long as the program runs.
func load() backend {
	b := backend{turbo: new(C.covey_turbo)}
	if why := C.covey_turbo_load(b.turbo); why != nil {
		b.missing = proto.OneLine(C.GoString(why))
	}
	return b
}

func (b backend) Engine() (name, runtime string) {
	switch {
	case b.missing != "":
		return "jpeg", "no libturbojpeg"
	case b.turbo.newer != 0:
		return "jpeg", "libturbojpeg 3"
	}
	return "jpeg", "libturbojpeg 2"
}

func (b backend) Probe() proto.Found {
	_, version := b.Engine()
	if b.missing != "" {
		return proto.Found{Diagnoses: []hal.Diagnosis{{Subject: "libturbojpeg", Fix: fix,
			Detail: "JPEG is decoded in the agent, 1.5 to 3 times slower: " + b.missing}}}
	}
	return proto.Found{
		Devices:   []hal.Device{{Accelerator: hal.CPU, Name: "JPEG decoder", Runtime: version}},
		Diagnoses: []hal.Diagnosis{{Subject: "libturbojpeg", OK: true, Detail: version}},
	}
}

func (b backend) Open(o proto.Open, file []byte, _ func(string)) (proto.Model, error) {
	if b.missing != "" {
		return nil, errorf(hal.CodeEngine, "libturbojpeg cannot be loaded (%s): %s", b.missing, fix)
	}
	if o.Accelerator != hal.CPU && o.Accelerator != hal.Auto && o.Accelerator != "" {
		return nil, errorf(hal.CodeAccel, "pictures are decoded on the cpu, not on %s", o.Accelerator)
	}
	limits, err := jpeg.ParseLimits(file)
	if err != nil {
		return nil, err
	}
	d := &decoder{turbo: b.turbo, limits: limits}
	d.opened = proto.Opened{Accelerator: hal.CPU, Threads: 1, Delegated: -1, Ops: -1}
	for _, t := range limits.Inputs() {
		d.opened.Inputs = append(d.opened.Inputs, proto.Tensor{TensorInfo: t, Bytes: int64(t.Elements() * t.Type.Size())})
	}
	for i, t := range limits.Outputs() {
		room := []int{limits.Room(), jpeg.PictureSize}[i]
		d.opened.Outputs = append(d.opened.Outputs, proto.Tensor{TensorInfo: t, Bytes: int64(room)})
	}
	return d, nil
}

// A decoder is one session.
type decoder struct {
	turbo  *C.covey_turbo
	limits jpeg.Limits
	handle unsafe.Pointer // of the picture that is being decoded
	opened proto.Opened
}

func (d *decoder) Opened() *proto.Opened { return &d.opened }
func (d *decoder) Reset() error          { return nil } // it keeps no state

func (d *decoder) Close() {}

// Numbers of TurboJPEG (TJCS, TJSAMP).
const (
	coloursYCbCr, coloursGray = 1, 2
	scanWarning               = "extraneous bytes before marker"
)

var samplings = map[C.int]int{0: 444, 1: 422, 2: 420, 3: 400, 4: 440}

// Run decodes a picture.
func (d *decoder) Run(in, out [][]byte, ran *proto.Ran) error {
	begin := time.Now()
	r, err := jpeg.ParseRequest(in[1], len(in[0]))
	if err != nil {
		return err
	}
	if r.Bytes == 0 {
		return errorf(hal.CodeImage, "picture is 0 bytes")
	}
	// The library keeps tables of a picture for the next one that has none; a few
	// microseconds for a new handle see to it that no picture knows of another.
	if d.handle = C.covey_turbo_init(d.turbo); d.handle == nil {
		return errorf(hal.CodeMemory, "no memory for a decoder")
	}
	defer C.covey_turbo_destroy(d.turbo, d.handle)
	p, err := d.layout(in[0][:r.Bytes], r.Eighths)
	if err != nil {
		return err
	}
	if p.Size() > len(out[0]) {
		return errorf(hal.CodeImageSize, "%d×%d takes %d bytes, there is room for %d", p.Width, p.Height, p.Size(), len(out[0]))
	}
	switch C.covey_turbo_decode(d.turbo, d.handle, (*C.uchar)(&in[0][0]), C.size_t(r.Bytes), (*C.uchar)(&out[0][0]),
		C.int(p.Width), C.int(p.Height), C.int(p.StrideY), C.int(p.RowsY), C.int(p.StrideC), C.int(p.RowsC)) {
	case 0:
	case 1:
		// Cameras leave bytes between segments, which every decoder passes over. What
		// else it warns of costs pixels.
		if why := d.said(); !strings.Contains(why, scanWarning) {
			return errorf(hal.CodeImage, "broken JPEG picture (%s)", why)
		}
	default:
		return errorf(hal.CodeImage, "broken JPEG picture (%s)", d.said())
	}
	p.Put(out[1])
	ran.EngineNS = time.Since(begin).Nanoseconds()
	ran.Outputs[0] = proto.Result{Bytes: int64(p.Size()), Rank: 1, Dims: [proto.MaxRank]int{p.Size()}}
	ran.Outputs[1] = proto.Result{Bytes: jpeg.PictureSize, Rank: 1, Dims: [proto.MaxRank]int{jpeg.PictureSize / 4}}
	return nil
}

// layout reads what kind of picture it is, and refuses it before it costs memory.
func (d *decoder) layout(file []byte, eighths int) (jpeg.Picture, error) {
	var head [4]C.int // width, height, sampling, colours
	if C.covey_turbo_header(d.turbo, d.handle, (*C.uchar)(&file[0]), C.size_t(len(file)), &head[0]) != 0 {
		return jpeg.Picture{}, errorf(hal.CodeImage, "broken JPEG picture (%s)", d.said())
	}
	w, h := int(head[0]), int(head[1])
	if w < 1 || h < 1 {
		return jpeg.Picture{}, errorf(hal.CodeImage, "broken JPEG picture (there is none in the file)")
	}
	if w > 1<<16 || h > 1<<16 || w*h > d.limits.Pixels {
		return jpeg.Picture{}, errorf(hal.CodeImageSize, "%d×%d is more than %d pixels: make the picture smaller", w, h, d.limits.Pixels)
	}
	scaled := func(n int) int { return (n*eighths + 7) / 8 }
	p, ok := jpeg.NewPicture(scaled(w), scaled(h), samplings[head[2]])
	if !ok || head[3] != coloursYCbCr && head[3] != coloursGray {
		return p, errorf(hal.CodeImage, "JPEG picture of a rare kind (sampling %d, colours %d)", int(head[2]), int(head[3]))
	}
	return p, nil
}

// said is the library's last error.
func (d *decoder) said() string {
	return proto.OneLine(C.GoString(C.covey_turbo_error(d.turbo, d.handle)))
}

func errorf(code hal.Code, format string, args ...any) error {
	return &hal.Error{Code: code, Text: fmt.Sprintf(format, args...)}
}
