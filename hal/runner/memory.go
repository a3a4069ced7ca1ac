package runner

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/hal"
)

// maxModel is the largest model file, in bytes.
const maxModel = 1 << 30

// A sealed is a model in memory that nobody can change any more. All runners of
// one model share it.
type sealed struct {
	file  *os.File
	size  int64
	sum   string // SHA-256, lower-case hex
	users int    // guarded by models.mu
}

// A models is the models that are open, by their sums.
type models struct {
	mu    sync.Mutex
	bySum map[string]*sealed
}

// get reads a model, unless it is open already. It is given back with drop.
func (all *models) get(ctx context.Context, m hal.Model) (*sealed, error) {
	if s := all.known(m); s != nil {
		return s, nil
	}
	s, err := seal(ctx, m)
	if err != nil {
		return nil, err
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	if other := all.bySum[s.sum]; other != nil { // of a file without a sum, or read twice at once
		s.file.Close()
		s = other
	}
	if all.bySum == nil {
		all.bySum = map[string]*sealed{}
	}
	all.bySum[s.sum] = s
	s.users++
	return s, nil
}

// known is a model that is open. What its file holds by now does not matter: the
// bytes that run are the ones that were vouched for.
func (all *models) known(m hal.Model) *sealed {
	all.mu.Lock()
	defer all.mu.Unlock()
	s := all.bySum[m.SHA256]
	if s == nil || m.Size > 0 && m.Size != s.size {
		return nil
	}
	s.users++
	return s
}

// drop frees the model's memory with its last session.
func (all *models) drop(s *sealed) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if s.users--; s.users == 0 {
		delete(all.bySum, s.sum)
		s.file.Close()
	}
}

// seal copies a model into memory that nobody can change any more, and hashes what
// it copies: the bytes that are vouched for are the bytes that run.
func seal(ctx context.Context, m hal.Model) (_ *sealed, err error) {
	src, err := os.OpenFile(m.Path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe that nobody writes to is not waited for
	if err != nil {
		return nil, &hal.Error{Code: hal.CodeModelFormat, Text: fmt.Sprintf("model %s cannot be read: %v", m.Name, err), Err: err}
	}
	defer src.Close()
	if st, err := src.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, &hal.Error{Code: hal.CodeModelFormat, Text: fmt.Sprintf("model %s is not a file: %s", m.Name, m.Path)}
	}
	file, err := memfd("covey-model")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	hash := sha256.New()
	limit := int64(maxModel)
	if m.Size > 0 {
		limit = m.Size
	}
	size, err := io.Copy(io.MultiWriter(file, hash), io.LimitReader(reader{ctx, src}, limit+1))
	if err != nil {
		if ctx.Err() == nil {
			err = &hal.Error{Code: hal.CodeMemory, Text: fmt.Sprintf("copy model %s into memory: %v", m.Name, err), Err: err}
		}
		return nil, err
	}
	sum := hex.EncodeToString(hash.Sum(nil))
	if err = vouch(m, size, limit, sum); err != nil {
		return nil, err
	}
	if err = fix(file, unix.F_SEAL_WRITE); err != nil {
		return nil, err
	}
	return &sealed{file: file, size: size, sum: sum}, nil
}

// vouch compares what was read with what was promised.
func vouch(m hal.Model, size, limit int64, sum string) error {
	fail := func(code hal.Code, format string, args ...any) error {
		return &hal.Error{Code: code, Text: fmt.Sprintf(format, args...)}
	}
	switch {
	case size == 0:
		return fail(hal.CodeModelEmpty, "model file is 0 bytes: %s", m.Name)
	case size > limit:
		return fail(hal.CodeLength, "model %s is longer than %d bytes", m.Name, limit)
	case m.Size > 0 && size < m.Size:
		return fail(hal.CodeModelShort, "model %s: got %d of %d bytes", m.Name, size, m.Size)
	case m.SHA256 != "" && sum != m.SHA256:
		return fail(hal.CodeHashAtRest, "model %s: want %.8s… got %.8s…: the file changed on disk", m.Name, m.SHA256, sum)
	}
	return nil
}

// sharedMemory makes memory of a fixed size for tensors, mapped here.
func sharedMemory(size int64) (*os.File, []byte, error) {
	f, err := memfd("covey-tensors")
	if err != nil {
		return nil, nil, err
	}
	if err = f.Truncate(size); err == nil {
		err = fix(f, 0)
	}
	var memory []byte
	if err == nil {
		memory, err = unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		f.Close()
		return nil, nil, &hal.Error{Code: hal.CodeMemory, Text: fmt.Sprintf("no %d bytes of shared memory for tensors: %v", size, err), Err: err}
	}
	return f, memory, nil
}

func memfd(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, &hal.Error{Code: hal.CodeMemory, Text: fmt.Sprintf("make memory for a runner: %v", err), Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// fix fixes the size for ever, and what more is asked for.
func fix(f *os.File, more int) error {
	_, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL|more)
	if err != nil {
		return &hal.Error{Code: hal.CodeEngine, Text: fmt.Sprintf("seal memory for a runner: %v", err), Err: err}
	}
	return nil
}

// A reader ends with its context.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("read: %w", err)
	}
	return n, err
}
