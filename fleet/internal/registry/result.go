package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/covey-edge/covey/fleet/internal/store"
	"github.com/covey-edge/covey/fleet/wire"
)

const (
	maxAnswers = 10_000 // kept of one pipeline; the oldest goes first
	maxRings   = 16     // pipelines of one device that answers are kept of
)

// An Answer is a result that the fleet asked for, or the word that results were
// lost, as the device sent it.
type Answer struct {
	N       uint64          `json:"n"`  // counts what came of this pipeline, from 1
	At      time.Time       `json:"at"` // when it came
	ID      string          `json:"id"`
	Seq     uint64          `json:"seq"`
	Lost    bool            `json:"lost,omitempty"` // Payload is a wire.Lost, else a wire.Result
	Payload json.RawMessage `json:"payload"`
}

// Answers are the answers of a device's pipeline behind number after, oldest
// first, at most limit. What is older than the last 10,000 is gone.
func (r *Registry) Answers(id wire.DeviceID, pipeline string, after uint64, limit int) (list []Answer, err error) {
	ring := ringKey(id, pipeline)
	err = r.db.View(func(tx *store.Tx) error {
		return store.EachFrom(tx, bucketResult, ring, answerKey(ring, after+1), func(_ string, a Answer) error {
			if len(list) >= limit {
				return store.ErrStop
			}
			list = append(list, a)
			return nil
		})
	})
	return list, err
}

// AnswerCount is how many answers ever came of a device's pipeline, each counted
// once.
func (r *Registry) AnswerCount(id wire.DeviceID, pipeline string) (n uint64, err error) {
	err = r.db.View(func(tx *store.Tx) error {
		ring := ringKey(id, pipeline)
		n = answerNumber(ring, store.Last(tx, bucketResult, ring))
		return nil
	})
	return n, err
}

func ringKey(id wire.DeviceID, pipeline string) string { return string(id) + "/" + pipeline + "/" }

func answerKey(ring string, n uint64) string { return fmt.Sprintf("%s%016x", ring, n) }

// answerNumber is the inverse of answerKey; 0 for no key.
func answerNumber(ring, key string) (n uint64) {
	fmt.Sscanf(strings.TrimPrefix(key, ring), "%016x", &n)
	return n
}

// takeResult stores a result, or a lost span, the first time its id comes.
func (r *Registry) takeResult(id wire.DeviceID, pipeline string, payload []byte) error {
	a, err := parseAnswer(pipeline, payload)
	if err != nil {
		return err
	}
	a.At = r.cfg.Now().UTC()
	ring := ringKey(id, pipeline)
	var before *Answer
	err = r.db.Batch(func(tx *store.Tx) (err error) {
		before, err = putAnswer(tx, ring, &a)
		return err
	})
	switch {
	case err != nil:
		return err
	case before == nil:
		r.stats.results.Add(1)
		r.watch.send(Event{Kind: EventResult, Device: id, Pipeline: pipeline, Answer: &a})
	case !same(before.Payload, a.Payload):
		return fmt.Errorf("%w: id %q came again with other content", errBad, a.ID)
	default:
		r.stats.duplicates.Add(1)
	}
	return nil
}

// same says whether two payloads say the same, however late.
func same(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y map[string]json.RawMessage
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	delete(x, "late")
	delete(y, "late")
	return maps.EqualFunc(x, y, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) })
}

// parseAnswer checks what came on the topic of a pipeline.
func parseAnswer(pipeline string, payload []byte) (a Answer, err error) {
	var probe struct {
		Lost json.RawMessage `json:"lost"`
	}
	// What is wrong with it, the next parser says better.
	if len(payload) <= wire.MaxResult && json.Unmarshal(payload, &probe) == nil && probe.Lost != nil {
		l, err := parse[wire.Lost](payload, wire.MaxResult)
		if err != nil {
			return a, err
		}
		a = Answer{ID: l.ID, Seq: l.Seq, Lost: true}
	} else {
		res, err := parse[wire.Result](payload, wire.MaxResult)
		if err != nil {
			return a, err
		}
		if res.Pipe != pipeline {
			return a, fmt.Errorf("%w: pipeline %q on the topic of %q", errBad, res.Pipe, pipeline)
		}
		a = Answer{ID: res.ID, Seq: res.Seq}
	}
	if !wire.ValidID(pipeline) {
		return a, fmt.Errorf("%w: %q is no pipeline", errBad, pipeline)
	}
	// The store writes JSON in its compact form: this makes equal what is equal.
	var compact bytes.Buffer
	if err := json.Compact(&compact, payload); err != nil {
		return a, fmt.Errorf("%w: %w", errBad, err)
	}
	a.Payload = compact.Bytes()
	return a, nil
}

// putAnswer appends an answer to its ring and gives it its number, and drops the
// oldest one that is too many. An answer that is there already is returned.
func putAnswer(tx *store.Tx, ring string, a *Answer) (before *Answer, err error) {
	n, err := store.Get[uint64](tx, bucketResultID, ring+a.ID)
	if err == nil {
		old, err := store.Get[Answer](tx, bucketResult, answerKey(ring, n))
		return &old, err
	}
	if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	last := store.Last(tx, bucketResult, ring)
	if last == "" && rings(tx, ring) >= maxRings {
		return nil, fmt.Errorf("%w: answers of more than %d pipelines", errBad, maxRings)
	}
	a.N = answerNumber(ring, last) + 1
	if err := store.Put(tx, bucketResult, answerKey(ring, a.N), *a); err != nil {
		return nil, err
	}
	if err := store.Put(tx, bucketResultID, ring+a.ID, a.N); err != nil {
		return nil, err
	}
	return nil, trim(tx, ring, a.N)
}

func trim(tx *store.Tx, ring string, newest uint64) error {
	first := store.First(tx, bucketResult, ring)
	if newest-answerNumber(ring, first) < maxAnswers {
		return nil
	}
	old, err := store.Get[Answer](tx, bucketResult, first)
	if err != nil {
		return err
	}
	return errors.Join(store.Delete(tx, bucketResult, first), store.Delete(tx, bucketResultID, ring+old.ID))
}

// rings counts the pipelines of the device of a ring that answers are kept of.
func rings(tx *store.Tx, ring string) (n int) {
	device := ring[:strings.IndexByte(ring, '/')+1]
	for key := store.First(tx, bucketResult, device); key != ""; n++ {
		key = store.After(tx, bucketResult, device, key[:strings.LastIndexByte(key, '/')+1]+"\xff")
	}
	return n
}
