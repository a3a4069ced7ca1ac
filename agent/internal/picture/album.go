package picture

import (
	"slices"
	"sync"
	"time"
)

// An Album keeps the pictures of the last events in memory: none is ever written to a
// disk. Any goroutine may use it.
type Album struct {
	Most int           // pictures
	Age  time.Duration // of the oldest

	mutex sync.Mutex
	kept  []*Picture // oldest first
}

// Put adds a picture, in the place of one with the same id.
func (a *Album) Put(p *Picture) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.kept = slices.DeleteFunc(a.kept, func(o *Picture) bool { return o.ID == p.ID })
	if a.kept = append(a.kept, p); len(a.kept) > a.Most {
		a.kept = slices.Delete(a.kept, 0, len(a.kept)-a.Most)
	}
}

// Get is the picture of an id; nil when there is none, or none any more.
func (a *Album) Get(id string) *Picture {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	for _, p := range a.kept {
		if p.ID == id {
			return p
		}
	}
	return nil
}

// Expire forgets pictures that are too old.
func (a *Album) Expire(now time.Time) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.kept = slices.DeleteFunc(a.kept, func(p *Picture) bool { return now.Sub(p.Taken) >= a.Age })
}

// Clear forgets all.
func (a *Album) Clear() {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.kept = nil
}
