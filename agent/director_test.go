package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/trust"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// An office is a controller's key, and people who sign.
type office struct {
	t      *testing.T
	now    time.Time // a bubble's is another
	people *trust.Key
	key    *trust.Key
	repo   *trust.Repository
}

func newKey(t *testing.T) *trust.Key {
	t.Helper()
	k, err := trust.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newOffice(t *testing.T, named bool) *office {
	o := &office{t: t, now: time.Now(), people: newKey(t), key: newKey(t)}
	var err error
	if o.repo, err = trust.Create(o.setup(named), o.now); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *office) setup(named bool) trust.Setup {
	q := trust.Quorum{Keys: []ed25519.PublicKey{o.people.Public()}, Threshold: 1}
	s := trust.Setup{Root: q, Releases: q, Publish: q}
	if named {
		s.Director = o.key.Public()
	}
	return s
}

// bundle is what people have signed, and the blob it goes by.
func (o *office) bundle() ([]byte, wire.DesiredTrust) {
	o.t.Helper()
	if _, err := o.repo.Sign(context.Background(), o.people, o.now); err != nil {
		o.t.Fatal(err)
	}
	b, err := o.repo.Bundle()
	if err != nil {
		o.t.Fatal(err)
	}
	body := b.Encode()
	return body, wire.DesiredTrust{SHA256: digestOf(body), Length: int64(len(body))}
}

func digestOf(b []byte) wire.Digest {
	sum := sha256.Sum256(b)
	return wire.Digest(hex.EncodeToString(sum[:]))
}

// orderBy is a desired document that a key has signed.
func orderBy(t *testing.T, k *trust.Key, rev uint64, ref *wire.DesiredTrust) ([]byte, *wire.Desired) {
	t.Helper()
	b, err := trust.SignDirected(context.Background(), k, wire.DesiredSigned{V: 1, Rev: rev, Device: "pi-1", Trust: ref})
	if err != nil {
		t.Fatal(err)
	}
	d, err := wire.Parse[wire.Desired](b, wire.MaxDesired)
	if err != nil {
		t.Fatal(err)
	}
	return b, d
}

// A board obeys the key that the root names, fetches a root that it does not know
// before it judges, and no newer order is overtaken by one that waited.
func TestDirector(t *testing.T) {
	o := newOffice(t, true)
	body, ref := o.bundle()
	blobs := map[wire.Digest][]byte{ref.SHA256: body}
	thief := newKey(t)

	synctest.Test(t, func(t *testing.T) {
		var took []uint64
		var refused []hal.Code
		var mu sync.Mutex // guards both
		var down atomic.Bool
		v := &voucher{store: trust.Store{FS: blob.OS{}, Path: filepath.Join(t.TempDir(), "trust.json")}, set: trust.New(o.repo.FirstFingerprint())}
		d := &director{voucher: v, now: func() time.Time { return o.now }, wake: make(chan struct{}, 1),
			take: func(d *wire.Desired) error {
				mu.Lock()
				defer mu.Unlock()
				took = append(took, d.Signed.Rev)
				return nil
			},
			refuse: func(err error) { mu.Lock(); defer mu.Unlock(); refused = append(refused, hal.CodeOf(err)) },
			fetch: func(ctx context.Context, ref wire.DesiredTrust) ([]byte, error) {
				if down.Load() || blobs[ref.SHA256] == nil {
					return nil, errors.New("no link")
				}
				return blobs[ref.SHA256], nil
			}}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go d.run(ctx, nil)
		expect := func(what string, revs []uint64, codes ...hal.Code) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if len(took) != len(revs) || len(revs) > 0 && took[0] != revs[0] {
				t.Errorf("%s: took %v, want %v", what, took, revs)
			}
			if len(refused) != len(codes) || len(codes) > 0 && refused[0] != codes[0] {
				t.Errorf("%s: refused %v, want %v", what, refused, codes)
			}
			took, refused = nil, nil
		}

		down.Store(true)
		d.order(orderBy(t, o.key, 1, &ref))
		expect("no root yet, and none to be had", nil, "")
		down.Store(false)
		time.Sleep(2 * time.Second)
		expect("no root yet", []uint64{1})
		d.order(orderBy(t, o.key, 2, &ref))
		expect("signed", []uint64{2})
		d.order(orderBy(t, thief, 3, &ref))
		expect("by a thief", nil, hal.CodeSignature)
		d.order(orderBy(t, thief, 3, nil))
		expect("by a thief who hides who signs", nil, hal.CodeSignature)
		made := wire.DesiredTrust{SHA256: digestOf([]byte("made up")), Length: 7}
		blobs[made.SHA256] = []byte("made up")
		d.order(orderBy(t, thief, 3, &made))
		expect("by a thief who names signatures of his own", nil, hal.CodeJSON)

		// The key was taken away: what the old one signs does not count, and what the
		// new one signs counts as soon as the root that names it is here.
		stolen := o.key
		o.key = newKey(t)
		if err := o.repo.Rotate(o.setup(true), o.now); err != nil {
			t.Fatal(err)
		}
		body, newer := o.bundle()
		down.Store(true)
		blobs[newer.SHA256] = body
		d.order(orderBy(t, o.key, 4, &newer))
		expect("a new key", nil, "")
		d.order(orderBy(t, stolen, 5, &ref))
		expect("the old key still counts here", []uint64{5})
		down.Store(false)
		time.Sleep(time.Minute)
		expect("what was overtaken", nil)
		d.order(orderBy(t, o.key, 6, &newer))
		expect("a new key", []uint64{6})
		d.order(orderBy(t, stolen, 7, &newer))
		expect("a stolen key", nil, hal.CodeSignature)
	})
}

// A root that names no director asks for no signature.
func TestNobodyDirects(t *testing.T) {
	o := newOffice(t, false)
	body, ref := o.bundle()
	v := &voucher{store: trust.Store{FS: blob.OS{}, Path: filepath.Join(t.TempDir(), "trust.json")}, set: trust.New(o.repo.FirstFingerprint())}
	if err := v.Learn(body, o.now); err != nil {
		t.Fatal(err)
	}
	b, _ := orderBy(t, newKey(t), 1, &ref)
	if d, err := v.directed(b); err != nil || d.Signed.Rev != 1 {
		t.Errorf("%v, %v", d, err)
	}
	if !v.knows(ref.SHA256) {
		t.Error("it does not know what it learnt")
	}
}
