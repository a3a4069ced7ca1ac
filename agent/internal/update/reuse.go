package update

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"

	"github.com/covey-edge/covey/agent/internal/slots"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
)

// A blockHash is the SHA-256 of a block, as manifests have it.
type blockHash [sha256.Size]byte

// A place is where a block lies: block n of a blob.
type place struct {
	sha wire.Digest
	n   int
}

// places says where the blocks of files lie, by what is in them. Pure.
func places(files []release.File) map[blockHash]place {
	at := map[blockHash]place{}
	for _, f := range files {
		n := 0
		for h := range slices.Chunk(f.Blocks, sha256.Size) {
			if len(h) == sha256.Size {
				at[blockHash(h)] = place{wire.Digest(f.SHA256), n}
			}
			n++
		}
	}
	return at
}

// reuse copies blocks that files on this board have, too, so that they need not be
// fetched. What cannot be read, or rotted, is left to the fetch: the partial blob
// holds each block against its hash.
func (l *Loop) reuse(ctx context.Context, p *blob.Partial, hashes []byte) error {
	if p.Left() == 0 || len(hashes) == 0 {
		return nil
	}
	at := places(l.filesHere())
	files := map[wire.Digest]blob.File{}
	defer func() {
		for _, f := range files {
			if f != nil {
				f.Close()
			}
		}
	}()
	missing, buf := p.Missing(), make([]byte, wire.BlockSize)
	for n := range len(hashes) / sha256.Size {
		from, ok := at[blockHash(hashes[n*sha256.Size:][:sha256.Size])]
		if !ok || !missing.Has(n) {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		f, opened := files[from.sha]
		if !opened {
			f, _ = l.c.Blobs.Open(from.sha) // nil: not here
			files[from.sha] = f
		}
		if f == nil {
			continue
		}
		size := min(wire.BlockSize, p.Len()-int64(n)*wire.BlockSize)
		if got, _ := f.ReadAt(buf[:size], int64(from.n)*wire.BlockSize); int64(got) < size {
			continue
		}
		if err := p.WriteBlock(n, buf[:size]); err != nil && !errors.Is(err, blob.ErrBlock) {
			return err
		}
	}
	return nil
}

// filesHere are the files of all releases in slots whose manifests can be read.
func (l *Loop) filesHere() (list []release.File) {
	for _, p := range l.c.State.State().Pipelines {
		for _, s := range []*slots.Slot{p.Active, p.Previous, p.Candidate} {
			if s == nil {
				continue
			}
			if m, err := l.manifest(s.Release); err == nil {
				list = append(list, m.Files()...)
			}
		}
	}
	return list
}

// Alike names a blob on this board that is like one which is about to be fetched:
// the model that runs where it is to run. "" says that there is none. Safe for any
// goroutine.
func (l *Loop) Alike(sha wire.Digest) wire.Digest {
	for _, p := range l.c.State.State().Pipelines {
		if p.Over() || p.Active == nil || !l.c.Blobs.Has(p.Active.Model) {
			continue
		}
		m, err := l.manifest(p.Exec.Want.Release)
		if err != nil {
			continue
		}
		if slices.ContainsFunc(m.Variants, func(v release.Variant) bool { return v.File.SHA256 == string(sha) }) {
			return p.Active.Model
		}
	}
	return ""
}

// Blob opens a blob of this board. The caller closes it.
func (l *Loop) Blob(sha wire.Digest) (blob.File, error) { return l.c.Blobs.Open(sha) }
