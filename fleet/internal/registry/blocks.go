package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/blob/pack"
	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
)

const (
	maxAnswer    = 64  // blocks sent for one request
	maxWaiting   = 256 // requests of all devices
	maxOfOne     = 8   // requests of one device
	blockWorkers = 4
	maxManifests = 256 // whose files are remembered
)

// Blobs is where the files of releases lie.
type Blobs interface {
	Open(sha wire.Digest) (blob.File, error)
	Read(sha wire.Digest, max int64) ([]byte, error)
	Put(ctx context.Context, sha wire.Digest, length int64, r io.Reader) error
}

// blocks answers requests for blocks of those blobs that a device was told to
// want. Requests are hints: one that is dropped is asked again.
type blocks struct {
	r     *Registry
	queue chan blockRequest // few, so that an answer is not older than its question

	mu        sync.Mutex
	waiting   map[wire.DeviceID]int
	manifests map[wire.Digest][]wire.Digest // of a release → its files

	packer            *pack.Packer
	sent, bytes, late atomic.Uint64
}

type blockRequest struct {
	id  wire.DeviceID
	get wire.BlockGet
}

func newBlocks(r *Registry) *blocks {
	return &blocks{
		r: r, packer: pack.NewPacker(blockWorkers),
		queue:     make(chan blockRequest, maxWaiting),
		waiting:   map[wire.DeviceID]int{},
		manifests: map[wire.Digest][]wire.Digest{},
	}
}

// Run answers requests for blocks until ctx ends.
func (r *Registry) Run(ctx context.Context) error {
	var g errgroup.Group
	for range blockWorkers {
		g.Go(func() error {
			r.blocks.work(ctx)
			return nil
		})
	}
	if r.cfg.Director != nil {
		g.Go(func() error { return r.renewing(ctx) })
	}
	return g.Wait()
}

// ask queues a request, or drops it when too many wait.
func (b *blocks) ask(id wire.DeviceID, payload []byte) error {
	get, err := parse[wire.BlockGet](payload, wire.MaxHealth)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting[id] >= maxOfOne {
		b.late.Add(1)
		return nil
	}
	select {
	case b.queue <- blockRequest{id, *get}:
		b.waiting[id]++
	default:
		b.late.Add(1)
	}
	return nil
}

func (b *blocks) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case q := <-b.queue:
			b.mu.Lock()
			if b.waiting[q.id]--; b.waiting[q.id] == 0 {
				delete(b.waiting, q.id)
			}
			b.mu.Unlock()
			if err := b.answer(ctx, q); err != nil {
				b.r.cfg.Log.Warn().Str("device", string(q.id)).Str("blob", q.get.SHA.Short()).Err(err).Msg("blocks not sent")
			}
		}
	}
}

// answer sends the wanted blocks, or says why there are none.
func (b *blocks) answer(ctx context.Context, q blockRequest) error {
	topics := wire.Device{Root: b.r.cfg.Root, ID: q.id}
	ok, err := b.r.MayFetch(q.id, q.get.SHA)
	if err != nil {
		return err
	}
	if !ok {
		return b.gone(topics, q.get, "this device is not asked to have this file")
	}
	f, err := b.r.cfg.Blobs.Open(q.get.SHA)
	if err != nil {
		return errors.Join(err, b.gone(topics, q.get, "the controller does not have this file any more"))
	}
	defer f.Close()
	base, done := b.base(q)
	defer done()
	left := min(q.get.Max, maxAnswer)
	wanted := blob.Bitmap(q.get.Bits)
	buf := make([]byte, wire.BlockSize)
	for i := 0; i < len(q.get.Bits)*8 && left > 0 && ctx.Err() == nil; i++ {
		if !wanted.Has(i) {
			continue
		}
		at := int64(q.get.From+i) * wire.BlockSize
		n, err := f.ReadAt(buf, at)
		if n == 0 {
			return b.gone(topics, q.get, "the file has no such block")
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		// The broker keeps the payload until it has gone to the device.
		packed := b.packer.Pack(make([]byte, 0, n+1), buf[:n], at, base)
		if err := b.r.broker.Publish(wire.Message{Topic: topics.Block(q.get.SHA, q.get.From+i), Payload: packed}); err != nil {
			return err
		}
		b.sent.Add(1)
		b.bytes.Add(uint64(len(packed)))
		left--
	}
	return nil
}

// base opens the blob that a device says it has. It counts only where the device was
// asked to have it some day: a difference from it tells what is in it. nil: blocks go
// without.
func (b *blocks) base(q blockRequest) (base *pack.Base, done func()) {
	if q.get.Base == "" || !b.had(q.id, q.get.Base) {
		return nil, func() {}
	}
	f, err := b.r.cfg.Blobs.Open(q.get.Base)
	if err != nil { // the controller does not keep it any more
		return nil, func() {}
	}
	return &pack.Base{R: f}, func() { f.Close() }
}

// had says whether a file is of a release that was ever asked of a device.
func (b *blocks) had(id wire.DeviceID, sha wire.Digest) bool {
	releases := map[wire.Digest]bool{}
	err := b.r.db.View(func(tx *store.Tx) error {
		return store.Each(tx, bucketExecution, string(id)+"/", func(_ string, e execRecord) error {
			releases[e.Release] = true
			return nil
		})
	})
	if err != nil {
		b.r.cfg.Log.Warn().Str("device", string(id)).Err(err).Msg("what a device had is not known; it gets whole blocks")
		return false
	}
	for digest := range releases {
		if files, err := b.files(digest); err == nil && slices.Contains(files, sha) { // an old release may be gone
			return true
		}
	}
	return false
}

func (b *blocks) gone(topics wire.Device, get wire.BlockGet, why string) error {
	return b.r.broker.Publish(wire.Message{Topic: topics.Block(get.SHA, get.From), Payload: append([]byte{wire.BlockGone}, why...)})
}

// MayFetch says whether a device is asked to have a file: what people have signed, the
// manifest of a release that is desired of it, or a file that such a manifest names.
func (r *Registry) MayFetch(id wire.DeviceID, sha wire.Digest) (bool, error) {
	doc, err := r.Desired(id)
	if err != nil {
		return false, err
	}
	if doc.Trust != nil && doc.Trust.SHA256 == sha {
		return true, nil
	}
	for _, rel := range doc.Pipelines {
		if rel.Release == sha {
			return true, nil
		}
		files, ferr := r.blocks.files(rel.Release)
		if slices.Contains(files, sha) {
			return true, nil
		}
		err = errors.Join(err, ferr)
	}
	return false, err
}

// files are those that the manifest of a release names. A manifest never changes.
func (b *blocks) files(digest wire.Digest) ([]wire.Digest, error) {
	b.mu.Lock()
	list, ok := b.manifests[digest]
	b.mu.Unlock()
	if ok {
		return list, nil
	}
	body, err := b.r.cfg.Blobs.Read(digest, release.MaxManifest)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", digest.Short(), err)
	}
	var m release.Manifest // was checked when it was pushed, and is what its hash says
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", digest.Short(), err)
	}
	for _, f := range m.Files() {
		list = append(list, wire.Digest(f.SHA256))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.manifests) >= maxManifests {
		clear(b.manifests)
	}
	b.manifests[digest] = list
	return list, nil
}
