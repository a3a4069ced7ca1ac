// Package proto is the protocol between an agent and a runner: the bytes of
// every message, both ways, and the loop that a runner written in Go serves it
// with. ../PROTOCOL.md says the same in words, for runners in other languages.
//
// Each side takes the other for hostile: lengths, counts and shapes are checked
// here, once, against bytes that nobody else can change any more.
package proto

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/covey-edge/covey/hal"
)

// Version is the version of the protocol that this package speaks.
const Version = 1

// Bounds of the protocol.
const (
	MaxPacket   = 64 << 10 // bytes of a packet, its header included
	MaxSessions = 16       // open at a time on one connection
	MaxTensors  = 64       // inputs of a model, and outputs
	MaxRank     = 8        // dimensions of a tensor
	MaxBuffers  = 16       // of a session
	MaxMapping  = 1 << 30  // bytes of shared memory of a session
	MaxText     = 1024     // bytes of a name or an error's text

	// DynamicRoom is the memory for an output whose shape is known only at run
	// time, in bytes.
	DynamicRoom = 1 << 20
)

// FD is the file descriptor at which a runner finds its socket.
const FD = 3

// A Kind says what a packet is. An answer is its request's kind with Answer set.
type Kind uint16

// The requests of an agent, and what a runner may send besides their answers.
const (
	KindHello Kind = 1 // JSON Hello → Welcome
	KindProbe Kind = 2 // empty → JSON Found
	KindOpen  Kind = 3 // JSON Open, one descriptor: the model → Opened
	KindMap   Kind = 4 // JSON Map, one descriptor: the memory → empty
	KindRun   Kind = 5 // binary Run → Ran
	KindReset Kind = 6 // empty → empty
	KindClose Kind = 7 // empty → empty

	Answer     Kind = 0x100
	KindFailed Kind = 0x201 // JSON Failed, instead of an answer
	KindNote   Kind = 0x202 // plain text: the step that a request is at, before its answer
)

// HeaderSize is the length of a Header in bytes.
const HeaderSize = 24

// A Header begins every packet. All numbers are little-endian.
type Header struct {
	Kind    Kind   // bytes 0–1; bytes 2–3 are zero
	Session uint32 // bytes 4–7; chosen by the agent, 0 where no session is meant
	Request uint64 // bytes 8–15; echoed by all that belongs to the request
	Length  uint32 // bytes 16–19: of the body; bytes 20–23 are zero
}

// Put writes a header for a body of n bytes into the first HeaderSize bytes of p.
func (h Header) Put(p []byte, n int) {
	binary.LittleEndian.PutUint16(p[0:], uint16(h.Kind))
	binary.LittleEndian.PutUint16(p[2:], 0)
	binary.LittleEndian.PutUint32(p[4:], h.Session)
	binary.LittleEndian.PutUint64(p[8:], h.Request)
	binary.LittleEndian.PutUint32(p[16:], uint32(n))
	binary.LittleEndian.PutUint32(p[20:], 0)
}

// Parse splits a packet. The body is a part of p.
func Parse(p []byte) (Header, []byte, error) {
	if len(p) < HeaderSize || len(p) > MaxPacket {
		return Header{}, nil, fmt.Errorf("packet of %d bytes", len(p))
	}
	h := Header{
		Kind:    Kind(binary.LittleEndian.Uint16(p[0:])),
		Session: binary.LittleEndian.Uint32(p[4:]),
		Request: binary.LittleEndian.Uint64(p[8:]),
		Length:  binary.LittleEndian.Uint32(p[16:]),
	}
	if p[2]|p[3]|p[20]|p[21]|p[22]|p[23] != 0 {
		return Header{}, nil, fmt.Errorf("packet of kind %#x has reserved bytes set", uint16(h.Kind))
	}
	if int(h.Length) != len(p)-HeaderSize {
		return Header{}, nil, fmt.Errorf("packet of kind %#x says %d bytes, has %d", uint16(h.Kind), h.Length, len(p)-HeaderSize)
	}
	return h, p[HeaderSize:], nil
}

// Pack makes a packet with v as JSON, or with an empty body when v is nil.
func Pack(h Header, v any) ([]byte, error) {
	p := make([]byte, HeaderSize)
	if v != nil {
		body, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		p = append(p, body...)
	}
	if len(p) > MaxPacket {
		return nil, fmt.Errorf("packet of kind %#x would be %d bytes, limit %d", uint16(h.Kind), len(p), MaxPacket)
	}
	h.Put(p, len(p)-HeaderSize)
	return p, nil
}

// Hello is the agent's first packet.
type Hello struct {
	Versions []int `json:"versions"` // of the protocol, that the agent speaks
}

// Welcome answers Hello.
type Welcome struct {
	Version int    `json:"version"` // that will be spoken
	Engine  string `json:"engine"`  // "tflite"
	Runtime string `json:"runtime"` // "tflite 2.17.1"
}

// Found answers Probe.
type Found struct {
	Devices   []hal.Device    `json:"devices"`
	Diagnoses []hal.Diagnosis `json:"diagnoses,omitempty"`
}

// Open asks to load the model in the descriptor that comes with it.
type Open struct {
	Name        string          `json:"name"`        // of the model, for messages
	Size        int64           `json:"size"`        // of the model, bytes
	Accelerator hal.Accelerator `json:"accelerator"` // wanted; "auto": the runner chooses
	Threads     int             `json:"threads"`     // 0: the runner chooses

	Device   string            `json:"device,omitempty"`   // of the accelerator; "": the first
	Settings map[string]string `json:"settings,omitempty"` // of the accelerator, by its own names
}

// Failed says why a request was not done. The session, if there was one, stays.
type Failed struct {
	Code hal.Code `json:"code"`
	Text string   `json:"text"` // one line
}

// Unpack reads a JSON body into v. Fields that v does not have are passed over,
// so that a newer peer may say more.
func Unpack(body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("body of %d bytes: %w", len(body), err)
	}
	return nil
}
