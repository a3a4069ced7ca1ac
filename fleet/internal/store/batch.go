package store

import bolt "go.etcd.io/bbolt"

// maxBatch bounds the work that is lost, and done again, when one function of a
// commit fails.
const maxBatch = 256

// A call is one Batch that waits.
type call struct {
	fn   func(*Tx) error
	turn chan bool // true: lead the next commit; closed: err stands
	err  error
}

// Batch is Update for many writers at a time: whoever comes while a commit is
// being written waits for the next one and shares it, so that the disk is synced
// once for all of them. Nobody waits when the disk is idle. fn may be called
// more than once, and must set what it sets anew each time; an error of fn is
// its own caller's alone.
func (s *Store) Batch(fn func(*Tx) error) error {
	c := &call{fn: fn, turn: make(chan bool, 1)}
	s.mu.Lock()
	s.queue = append(s.queue, c)
	if s.busy {
		s.mu.Unlock()
		if lead := <-c.turn; !lead {
			return c.err
		}
		s.mu.Lock()
	}
	s.busy = true
	calls := s.queue[:min(len(s.queue), maxBatch)]
	s.queue = s.queue[len(calls):]
	s.mu.Unlock()

	s.commit(calls)
	s.handOn()
	return c.err
}

// handOn makes the first of those who came meanwhile the next leader.
func (s *Store) handOn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		s.queue = nil
		s.busy = false
		return
	}
	s.queue[0].turn <- true
}

// commit runs all calls in one transaction. One that fails is taken out and the
// others are done again, since bbolt cannot take back a part.
func (s *Store) commit(calls []*call) {
	left := append([]*call(nil), calls...)
	for len(left) > 0 {
		bad := -1
		err := s.db.Update(func(tx *bolt.Tx) error {
			for i, c := range left {
				if c.err = c.fn(&Tx{tx}); c.err != nil {
					bad = i
					return c.err
				}
			}
			return nil
		})
		if bad < 0 {
			for _, c := range left {
				c.err = err
			}
			break
		}
		left = append(left[:bad], left[bad+1:]...)
	}
	for _, c := range calls {
		close(c.turn)
	}
}
