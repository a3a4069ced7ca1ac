package proto

import (
	"errors"
	"fmt"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
)

// A Backend is what a runner written in Go has beneath the protocol. All its
// methods, and those of its models, are called by one goroutine, on one OS
// thread, one after the other.
type Backend interface {
	// Engine names the engine and its runtime: "tflite", "tflite 2.17.1".
	Engine() (name, runtime string)
	// Probe says which devices are here and what is missing.
	Probe() Found
	// Open loads a model. The bytes stay valid until the Model is closed. step is
	// to be told what comes next, before anything that a bad model may crash.
	Open(o Open, model []byte, step func(string)) (Model, error)
}

// A Model is one open model of a Backend.
type Model interface {
	// Opened describes the model. It never changes.
	Opened() *Opened
	// Run reads the inputs, runs, writes the outputs and fills r, which has one
	// Result an output already. out[i] is the room there is for output i.
	Run(in, out [][]byte, r *Ran) error
	// Reset forgets the state between runs.
	Reset() error
	// Close frees the model.
	Close()
}

// A Mapper is a Model that places its tensors on the shared memory itself, so that
// a run copies nothing.
type Mapper interface {
	// Map is called once, before the first Run: in and out are, buffer by buffer,
	// what Run will be given. They stay valid until Close.
	Map(in, out [][][]byte) error
}

// Serve answers the agent at the socket fd until the agent closes it, which is a
// nil error. It blocks an OS thread in reading: no poller stands between the
// agent's request and the engine.
func Serve(fd int, b Backend) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s := &server{fd: fd, backend: b, open: map[uint32]*served{}, in: make([]byte, MaxPacket), oob: make([]byte, unix.CmsgSpace(4*maxFDs))}
	defer s.closeAll()
	for {
		if done, err := s.next(); done || err != nil {
			return err
		}
	}
}

// maxFDs is how many descriptors a packet has room for; one is allowed.
const maxFDs = 4

type server struct {
	fd      int
	backend Backend
	open    map[uint32]*served
	greeted bool
	in, oob []byte
}

type served struct {
	model  Model
	file   []byte // the mapped model
	memory []byte // nil before Map
	in     [][][]byte
	out    [][][]byte
	ran    Ran
	answer []byte
}

// next reads one request and answers it.
func (s *server) next() (done bool, err error) {
	n, oobn, flags, err := receive(s.fd, s.in, s.oob)
	if err != nil {
		return false, fmt.Errorf("read request: %w", err)
	}
	if n == 0 {
		return true, nil
	}
	h, body, fds, err := s.parse(n, oobn, flags)
	if err != nil {
		closeAll(fds)
		return false, err
	}
	if h.Kind == KindRun && len(fds) == 0 {
		return false, s.run(h, body)
	}
	answer, err := s.do(h, body, fds)
	closeAll(fds)
	return false, s.reply(h, answer, err)
}

func (s *server) parse(n, oobn, flags int) (Header, []byte, []int, error) {
	fds, err := descriptors(s.oob[:oobn])
	if err != nil || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return Header{}, nil, fds, fmt.Errorf("read request: cut short (flags %#x): %v", flags, err)
	}
	h, body, err := Parse(s.in[:n])
	return h, body, fds, err
}

// reply sends an answer, or why there is none.
func (s *server) reply(h Header, answer any, err error) error {
	kind := h.Kind | Answer
	if err != nil {
		kind, answer = KindFailed, failed(err)
	}
	p, err := Pack(Header{Kind: kind, Session: h.Session, Request: h.Request}, answer)
	if err != nil {
		return err
	}
	return send(s.fd, p)
}

func failed(err error) Failed {
	var e *hal.Error
	if errors.As(err, &e) {
		return Failed{Code: e.Code, Text: OneLine(e.Text)}
	}
	return Failed{Code: hal.CodeEngine, Text: OneLine(err.Error())}
}

// do handles every request but Run.
func (s *server) do(h Header, body []byte, fds []int) (any, error) {
	want := 0
	if h.Kind == KindOpen || h.Kind == KindMap {
		want = 1
	}
	if len(fds) != want {
		return nil, fmt.Errorf("request of kind %d with %d descriptors, want %d", h.Kind, len(fds), want)
	}
	if h.Kind == KindHello {
		return s.hello(body)
	}
	if !s.greeted {
		return nil, errors.New("the first request has to be hello")
	}
	switch h.Kind {
	case KindProbe:
		return s.backend.Probe(), nil
	case KindOpen:
		return s.load(h, body, fds[0])
	}
	m := s.open[h.Session]
	if m == nil {
		return nil, fmt.Errorf("session %d is not open", h.Session)
	}
	switch h.Kind {
	case KindMap:
		return nil, m.share(body, fds[0])
	case KindReset:
		return nil, m.model.Reset()
	case KindClose:
		delete(s.open, h.Session)
		m.close()
		return nil, nil
	}
	return nil, fmt.Errorf("no request of kind %d", h.Kind)
}

func (s *server) hello(body []byte) (any, error) {
	var hello Hello
	if err := Unpack(body, &hello); err != nil {
		return nil, err
	}
	if !slices.Contains(hello.Versions, Version) {
		return nil, fmt.Errorf("this runner speaks protocol %d, the agent %v: install both from one release", Version, hello.Versions)
	}
	s.greeted = true
	name, runtime := s.backend.Engine()
	return Welcome{Version: Version, Engine: name, Runtime: runtime}, nil
}

func (s *server) load(h Header, body []byte, fd int) (any, error) {
	var o Open
	if err := Unpack(body, &o); err != nil {
		return nil, err
	}
	if h.Session == 0 || s.open[h.Session] != nil || len(s.open) == MaxSessions {
		return nil, fmt.Errorf("session %d cannot be opened: %d of %d are", h.Session, len(s.open), MaxSessions)
	}
	file, err := mapped(fd, o.Size, unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("map model %s: %w", o.Name, err)
	}
	answered := false
	step := func(text string) {
		if answered { // a model that opens itself anew, for a reset: nobody waits for notes
			return
		}
		p := append(make([]byte, HeaderSize), OneLine(text)...)
		Header{Kind: KindNote, Session: h.Session, Request: h.Request}.Put(p, len(p)-HeaderSize)
		_ = send(s.fd, p) // the agent is gone: the next read says so
	}
	m, err := s.backend.Open(o, file, step)
	answered = true
	if err != nil {
		return nil, errors.Join(err, unix.Munmap(file))
	}
	s.open[h.Session] = &served{model: m, file: file}
	return m.Opened(), nil
}

// share maps the memory of a session and cuts it into buffers.
func (m *served) share(body []byte, fd int) error {
	var layout Map
	if err := Unpack(body, &layout); err != nil {
		return err
	}
	o := m.model.Opened()
	if err := layout.Check(o); err != nil {
		return err
	}
	if m.memory != nil {
		return errors.New("the session has its memory already")
	}
	memory, err := mapped(fd, layout.Size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map %d bytes of tensors: %w", layout.Size, err)
	}
	m.memory = memory
	for _, b := range layout.Buffers {
		m.in = append(m.in, pieces(memory, b.In))
		m.out = append(m.out, pieces(memory, b.Out))
	}
	m.ran.Outputs = make([]Result, len(o.Outputs))
	m.answer = make([]byte, HeaderSize+RanSize(len(o.Outputs)))
	if mapper, ok := m.model.(Mapper); ok {
		return mapper.Map(m.in, m.out)
	}
	return nil
}

// run is the hot request: it allocates nothing when it succeeds.
func (s *server) run(h Header, body []byte) error {
	m := s.open[h.Session]
	if m == nil || m.memory == nil {
		return s.reply(h, nil, fmt.Errorf("session %d is not open and mapped", h.Session))
	}
	buf, err := ParseRun(body, len(m.in))
	if err != nil {
		return s.reply(h, nil, err)
	}
	if err := m.model.Run(m.in[buf], m.out[buf], &m.ran); err != nil {
		return s.reply(h, nil, err)
	}
	Header{Kind: KindRun | Answer, Session: h.Session, Request: h.Request}.Put(m.answer, len(m.answer)-HeaderSize)
	m.ran.Put(m.answer[HeaderSize:])
	return send(s.fd, m.answer)
}

func (m *served) close() {
	m.model.Close()
	_ = unix.Munmap(m.file)
	if m.memory != nil {
		_ = unix.Munmap(m.memory)
	}
}

func (s *server) closeAll() {
	for _, m := range s.open {
		m.close()
	}
}

func pieces(memory []byte, spans []Span) [][]byte {
	var p [][]byte
	for _, s := range spans {
		p = append(p, s.Of(memory))
	}
	return p
}

// mapped maps a whole descriptor that has to be size bytes long. A write-sealed
// one can only be mapped private before Linux 6.7; its pages are shared all the same.
func mapped(fd int, size int64, prot, flags int) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Size != size || size <= 0 || size > 4*MaxMapping {
		return nil, fmt.Errorf("descriptor has %d bytes, the request says %d", st.Size, size)
	}
	return unix.Mmap(fd, 0, int(size), prot, flags)
}

func receive(fd int, p, oob []byte) (n, oobn, flags int, err error) {
	for {
		n, oobn, flags, _, err = unix.Recvmsg(fd, p, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			return n, oobn, flags, err
		}
	}
}

func send(fd int, p []byte) error {
	for {
		_, err := unix.SendmsgN(fd, p, nil, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return err
		}
	}
}

// descriptors are the file descriptors in a control message.
func descriptors(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	for i := range messages {
		got, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return fds, err
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
