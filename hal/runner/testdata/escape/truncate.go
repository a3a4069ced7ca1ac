package main

import (
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/runner/proto"
)

// truncate answers as an engine does, but keeps the descriptors of the model and of
// the tensors' memory, and with each run does its worst to them. The output of a
// run is one byte for each act: 1 if it was done.
func truncate() {
	in, oob := make([]byte, proto.MaxPacket), make([]byte, 256)
	var model, tensors int
	var memory []byte
	var layout proto.Map
	for {
		n, oobn, _, _, err := unix.Recvmsg(proto.FD, in, oob, 0)
		if err != nil || n == 0 {
			return
		}
		h, body, err := proto.Parse(in[:n])
		if err != nil {
			panic(err)
		}
		var answer any
		switch h.Kind {
		case proto.KindHello:
			answer = proto.Welcome{Version: proto.Version, Engine: "escape", Runtime: "escape 1"}
		case proto.KindOpen:
			model = descriptor(oob[:oobn])
			tensor := proto.Tensor{TensorInfo: hal.TensorInfo{Name: "x", Type: hal.Uint8, Shape: []int{8}}, Bytes: 8}
			answer = proto.Opened{Inputs: []proto.Tensor{tensor}, Outputs: []proto.Tensor{tensor}, Accelerator: hal.CPU, Delegated: -1, Ops: -1}
		case proto.KindMap:
			tensors = descriptor(oob[:oobn])
			if err := json.Unmarshal(body, &layout); err != nil {
				panic(err)
			}
			if memory, err = unix.Mmap(tensors, 0, int(layout.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
				panic(err)
			}
		case proto.KindRun:
			worst(model, tensors, layout.Buffers[0].Out[0].Of(memory))
			ran := proto.Ran{Outputs: []proto.Result{{Bytes: 8, Rank: 1, Dims: [proto.MaxRank]int{8}}}}
			p := make([]byte, proto.HeaderSize+proto.RanSize(1))
			proto.Header{Kind: h.Kind | proto.Answer, Session: h.Session, Request: h.Request}.Put(p, proto.RanSize(1))
			ran.Put(p[proto.HeaderSize:])
			_, _ = unix.Write(proto.FD, p)
			continue
		}
		p, err := proto.Pack(proto.Header{Kind: h.Kind | proto.Answer, Session: h.Session, Request: h.Request}, answer)
		if err != nil {
			panic(err)
		}
		_, _ = unix.Write(proto.FD, p)
	}
}

// worst tries to take away the memory that the agent reads, and to change a model
// that was vouched for.
func worst(model, tensors int, done []byte) {
	clear(done)
	for i, act := range []func() error{
		func() error { return unix.Ftruncate(tensors, 0) },
		func() error { return unix.Ftruncate(tensors, 1<<20) },
		func() error {
			return unix.Fallocate(tensors, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_COLLAPSE_RANGE, 0, 4096)
		},
		func() error {
			_, err := unix.FcntlInt(uintptr(tensors), unix.F_ADD_SEALS, unix.F_SEAL_WRITE)
			return err
		},
		func() error { return unix.Ftruncate(model, 0) },
		func() error { _, err := unix.Pwrite(model, []byte("evil"), 0); return err },
		func() error {
			_, err := unix.Mmap(model, 0, 4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			return err
		},
		func() error {
			_, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", model), os.O_WRONLY|os.O_TRUNC, 0)
			return err
		},
	} {
		if act() == nil {
			done[i] = 1
		}
	}
}

func descriptor(oob []byte) int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		panic(fmt.Sprint("no descriptor: ", err))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		panic(err)
	}
	return fds[0]
}
