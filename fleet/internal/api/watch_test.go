package api

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// clock records the deadlines that a stream sets.
type clock struct {
	*httptest.ResponseRecorder
	set []time.Time
}

func (c *clock) SetWriteDeadline(t time.Time) error { c.set = append(c.set, t); return nil }

// An event has its time; the silence behind it has no end.
func TestStreamOutlivesSilence(t *testing.T) {
	c := &clock{ResponseRecorder: httptest.NewRecorder()}
	s := stream{c}
	if err := s.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	s.Write([]byte("data: {}\n\n"))
	s.Flush()
	if len(c.set) != 2 || c.set[0].IsZero() || !c.set[1].IsZero() || !c.Flushed {
		t.Errorf("deadlines %v, flushed %v: want one, then none, and a flush", c.set, c.Flushed)
	}
}

// An answer has its time from its first byte on: not while the request is still
// being sent, and not that of the answer before on the same connection.
func TestAnswersHaveTheirTime(t *testing.T) {
	c := &clock{ResponseRecorder: httptest.NewRecorder()}
	w := newStatusWriter(c)
	if len(c.set) != 1 || !c.set[0].IsZero() {
		t.Errorf("before the answer: %v, want no limit", c.set)
	}
	w.WriteHeader(http.StatusOK)
	w.Write([]byte("{}"))
	if len(c.set) != 2 || time.Until(c.set[1]) > answerLimit || c.set[1].IsZero() {
		t.Errorf("limits %v: want none, then one", c.set)
	}
}
