package uplink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// pipes is a listener whose connections are in memory, so that time may be unreal.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// overHTTP fetches a file that lacks some blocks from a handler, on a clock of its own.
func overHTTP(t *testing.T, data []byte, sha wire.Digest, hashes []byte, here []int, down bool, h http.Handler, look func(error, *blob.Partial, time.Duration)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := make(pipes)
		var serving sync.WaitGroup
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			serving.Add(1)
			defer serving.Done()
			h.ServeHTTP(w, r)
		}), ErrorLog: log.New(io.Discard, "", 0)}
		go srv.Serve(l) // ends when l does
		tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if down {
				return nil, errors.New("network is unreachable")
			}
			a, b := net.Pipe()
			select {
			case l <- b:
				return a, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}}
		store, err := blob.Open(filepath.Join(dir, "blobs"), blob.OS{})
		if err != nil {
			t.Fatal(err)
		}
		p, err := store.Receive(sha, int64(len(data)), hashes)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range here {
			if err := p.WriteBlock(n, data[n*wire.BlockSize:(n+1)*wire.BlockSize]); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		r := Ranges{API: "http://controller", Client: &http.Client{Transport: tr}}
		look(r.Fetch(t.Context(), sha, p), p, time.Since(began))
		p.Close()
		tr.CloseIdleConnections()
		srv.Close()
		synctest.Wait() // no handler begins any more
		serving.Wait()
		synctest.Wait()
	})
}

// fileOver serves a file as the controller does, and counts.
type fileOver struct {
	data   []byte
	cut    int // cut the connection after so many bytes of each answer; 0: never
	asked  []string
	served int
}

func (s *fileOver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked = append(s.asked, r.URL.Path+" "+r.Header.Get("Range"))
	http.ServeContent(&cutter{w, s}, r, "", time.Time{}, bytes.NewReader(s.data))
}

type cutter struct {
	http.ResponseWriter
	s *fileOver
}

func (c *cutter) Write(b []byte) (int, error) {
	if c.s.cut > 0 {
		if left := c.s.cut - c.s.served%c.s.cut; len(b) >= left {
			n, _ := c.ResponseWriter.Write(b[:left])
			c.s.served += n
			http.NewResponseController(c.ResponseWriter).Flush()
			panic(http.ErrAbortHandler)
		}
	}
	n, err := c.ResponseWriter.Write(b)
	c.s.served += n
	return n, err
}

func TestRanges(t *testing.T) {
	data, sha, hashes := someFile(t, 40*wire.BlockSize+123)
	s := &fileOver{data: data}
	overHTTP(t, data, sha, hashes, []int{0, 7, 8}, false, s, func(err error, p *blob.Partial, _ time.Duration) {
		if err != nil || p.Finish(t.Context()) != nil {
			t.Errorf("%v, %d left", err, p.Left())
		}
	})
	want := fmt.Sprint([]string{"/v1/blobs/" + string(sha) + " bytes=65536-458751", "/v1/blobs/" + string(sha) + " bytes=589824-2686975"})
	if got := fmt.Sprint(s.asked); got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}
	// Cut every 10 and a half blocks.
	s = &fileOver{data: data, cut: 21 * wire.BlockSize / 2}
	overHTTP(t, data, sha, hashes, nil, false, s, func(err error, p *blob.Partial, _ time.Duration) {
		if err != nil || p.Finish(t.Context()) != nil {
			t.Errorf("with cuts: %v, %d left", err, p.Left())
		}
	})
	if cuts := len(s.asked) - 1; cuts < 3 || s.served-len(data) > cuts*wire.BlockSize {
		t.Errorf("%d bytes served again for %d cuts: at most a block each", s.served-len(data), cuts)
	}
}

func TestRangesRefuse(t *testing.T) {
	data, sha, hashes := someFile(t, 4*wire.BlockSize)
	for name, c := range map[string]struct {
		h     http.HandlerFunc
		down  bool
		code  hal.Code
		is    error
		least time.Duration
	}{
		"trickle": {h: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 0-262143/262144")
			w.Header().Set("Content-Length", "262144")
			w.WriteHeader(http.StatusPartialContent)
			for i := range data {
				if _, err := w.Write(data[i : i+1]); err != nil || http.NewResponseController(w).Flush() != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}, code: hal.CodeTimeout, least: maxStall},
		"silence":  {h: func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, code: hal.CodeTimeout, least: maxStall},
		"not ours": {h: func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, is: ErrGone},
		"endless": {h: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 0-/*")
			w.Header().Set("Content-Length", "262145")
			w.WriteHeader(http.StatusPartialContent)
		}, code: hal.CodeLength},
		"endless in chunks": {h: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 0-/*")
			w.WriteHeader(http.StatusPartialContent)
			for {
				if _, err := w.Write(data); err != nil {
					return
				}
			}
		}, code: hal.CodeLength},
		"all of it": {h: func(w http.ResponseWriter, r *http.Request) { w.Write(data) }},
		"another range": {h: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 65536-131071/262144")
			w.Header().Set("Content-Length", "65536")
			w.WriteHeader(http.StatusPartialContent)
			w.Write(data[:wire.BlockSize])
		}},
		"other bytes": {h: func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(make([]byte, len(data))))
		}, is: blob.ErrBlock},
		"revoked":       {h: func(w http.ResponseWriter, r *http.Request) { http.Error(w, "", http.StatusUnauthorized) }},
		"unreachable":   {down: true, is: ErrNoConnection},
		"always broken": {h: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, is: ErrNoConnection},
	} {
		t.Run(name, func(t *testing.T) {
			overHTTP(t, data, sha, hashes, nil, c.down, c.h, func(err error, p *blob.Partial, took time.Duration) {
				switch {
				case err == nil:
					t.Fatal("no error")
				case hal.CodeOf(err) != c.code, c.is != nil && !errors.Is(err, c.is):
					t.Errorf("%v, want code %q and %v", err, c.code, c.is)
				case took < c.least || took > 2*maxStall:
					t.Errorf("took %v", took)
				}
			})
		})
	}
}
