// Badrunner is a runner that misbehaves as its environment says (MODE=…). The
// tests of package runner build it.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner/proto"
)

func main() {
	mode := os.Getenv("MODE")
	switch mode {
	case "exit-start":
		fmt.Fprintln(os.Stderr, "libthing.so: cannot open shared object file")
		os.Exit(3)
	case "silent-start":
		time.Sleep(time.Hour)
	case "garbage-start":
		unix.Write(proto.FD, []byte("hello"))
		time.Sleep(time.Hour)
	case "empty-start":
		unix.Shutdown(proto.FD, unix.SHUT_WR)
		time.Sleep(time.Hour)
	}
	b := &backend{mode: mode}
	err := proto.Serve(proto.FD, b)
	if strings.HasSuffix(mode, "hang-close") {
		time.Sleep(time.Hour)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func die(s syscall.Signal) {
	// Go would turn it into a trace: the kernel's own way, please.
	type action struct {
		handler, flags, restorer uintptr
		mask                     uint64
	}
	var dfl action
	syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&dfl)), 0, 8, 0, 0)
	syscall.Kill(os.Getpid(), s)
	time.Sleep(time.Hour)
}

type backend struct{ mode string }

func (b *backend) Engine() (string, string) { return "bad", "bad 1" }

func (b *backend) Probe() proto.Found {
	return proto.Found{Devices: []hal.Device{{Accelerator: hal.CPU, Name: "bad cpu"}}}
}

func (b *backend) Open(o proto.Open, file []byte, step func(string)) (proto.Model, error) {
	if o.Accelerator != hal.Auto && o.Accelerator != hal.CPU && (!strings.HasPrefix(b.mode, "shared") || o.Accelerator != hal.EdgeTPU) {
		return nil, &hal.Error{Code: hal.CodeAccel, Text: "no " + string(o.Accelerator)}
	}
	step("AllocateTensors")
	switch b.mode {
	case "crash-open":
		die(syscall.SIGSEGV)
	case "hang-open":
		time.Sleep(time.Hour)
	case "refuse-open":
		return nil, &hal.Error{Code: hal.CodeOp, Text: "operator \"Foo\"\n is not\x00 here"}
	case "made-up-code":
		return nil, &hal.Error{Code: "E_PAY_ME", Text: "now"}
	case "notes":
		for {
			step("again")
		}
	case "flood-stderr":
		for range 10000 {
			fmt.Fprintln(os.Stderr, strings.Repeat("x", 3000))
		}
	}
	m := &model{mode: b.mode, opened: proto.Opened{
		Inputs:      []proto.Tensor{{TensorInfo: hal.TensorInfo{Name: "in", Type: hal.Uint8, Shape: []int{1, 8}}, Bytes: 8}},
		Outputs:     []proto.Tensor{{TensorInfo: hal.TensorInfo{Name: "out", Type: hal.Uint8, Shape: []int{1, 8}}, Bytes: 8}},
		Accelerator: hal.CPU, Threads: 1, Delegated: -1, Ops: -1,
	}}
	switch b.mode {
	case "dynamic":
		m.opened.Outputs[0].Shape, m.opened.Outputs[0].Bytes = []int{-1, 2}, 0
	case "huge":
		m.opened.Inputs[0].Shape, m.opened.Inputs[0].Bytes = []int{1 << 40, 1 << 40}, 0
	case "negative":
		m.opened.Inputs[0].Shape = []int{-8}
	case "many":
		for range 200 {
			m.opened.Outputs = append(m.opened.Outputs, m.opened.Outputs[0])
		}
	case "picture": // as large as a camera's, to measure the hop
		m.opened.Inputs[0].Shape, m.opened.Inputs[0].Bytes = []int{1, 224, 224, 3}, 224*224*3
	}
	return m, nil
}

type model struct {
	mode    string
	opened  proto.Opened
	runs    int
	picture [224 * 224 * 3]byte
	grown   [][4096]byte
}

func (m *model) Opened() *proto.Opened { return &m.opened }
func (m *model) Reset() error          { return nil }
func (m *model) Close()                {}

func (m *model) Run(in, out [][]byte, r *proto.Ran) error {
	m.runs++
	n := copy(out[0], in[0][:8])
	r.EngineNS = 1000
	r.Outputs[0] = proto.Result{Bytes: int64(n), Rank: 2, Dims: [proto.MaxRank]int{1, n}}
	switch m.mode {
	case "shared": // says which process it is, and dies when it is told to
		if in[0][0] == 0xff {
			die(syscall.SIGSEGV)
		}
		binary.LittleEndian.PutUint32(out[0][4:], uint32(os.Getpid()))
	case "picture":
		copy(m.picture[:], in[0])
	case "dynamic":
		n = 2 * (m.runs % 4)
		r.Outputs[0] = proto.Result{Bytes: int64(n), Rank: 2, Dims: [proto.MaxRank]int{n / 2, 2}}
	case "refuse-run":
		return &hal.Error{Code: hal.CodeInvoke, Text: "bad input"}
	case "mumble-run":
		return errors.New("no reason")
	case "crash-run":
		die(syscall.SIGABRT)
	case "exit-run":
		fmt.Fprintln(os.Stderr, "goodbye")
		os.Exit(7)
	case "killed-run":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		time.Sleep(time.Hour)
	case "hang-run":
		fmt.Fprintln(os.Stderr, "hanging")
		for { // deaf to everything but SIGKILL
		}
	case "memory-run":
		var all [][]byte
		for {
			b := make([]byte, 16<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			all = append(all, b)
			runtime.KeepAlive(all)
		}
	case "shared-memory-run": // which no limit of the process counts
		b, err := unix.Mmap(-1, 0, 256<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
		if err != nil {
			return err
		}
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
	case "grow":
		for range 32 << 20 / 4096 {
			m.grown = append(m.grown, [4096]byte{1})
		}
	case "boast":
		r.EngineNS = 1 << 62
	case "too-large":
		r.Outputs[0].Bytes = 1 << 62
	case "wrong-shape":
		r.Outputs[0].Dims[1] = 1 << 30
	case "wrong-rank":
		r.Outputs[0].Rank = 200
	case "late-time":
		r.EngineNS = -1
	case "stray":
		// Right in all but the request it answers.
		p := make([]byte, proto.HeaderSize+proto.RanSize(1))
		proto.Header{Kind: proto.KindRun | proto.Answer, Session: 1, Request: 1 << 40}.Put(p, proto.RanSize(1))
		r.Put(p[proto.HeaderSize:])
		unix.Write(proto.FD, p)
	case "mute-run":
		unix.Shutdown(proto.FD, unix.SHUT_RDWR)
		time.Sleep(time.Hour)
	case "cut":
		unix.Write(proto.FD, []byte{1, 2, 3})
	}
	return nil
}
