package pulse

import (
	"context"
	"reflect"
	"testing"
	"testing/synctest"
	"time"
)

func TestLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Board{}
		a, c := b.Loop("a"), b.Loop("c")
		if late := b.Late(); late != nil {
			t.Errorf("at once: %v", late)
		}
		time.Sleep(Promise)
		a.Beat()
		c.Do("thinks", time.Minute)
		time.Sleep(Promise + time.Second)
		if late := b.Late(); !reflect.DeepEqual(late, []Late{{Loop: "a", For: Promise + time.Second}}) {
			t.Errorf("after a's promise: %v", late)
		}
		a.Rest(0)
		time.Sleep(time.Minute)
		if late := b.Late(); !reflect.DeepEqual(late, []Late{{"c", "thinks", time.Minute + Promise + time.Second}}) {
			t.Errorf("after what c said: %v", late)
		}
		c.Beat()
		time.Sleep(24 * time.Hour)
		if late := b.Late(); len(late) != 1 || late[0].Loop != "c" || late[0].Doing != "" {
			t.Errorf("a day later: %v", late)
		}
		if names := b.Names(); !reflect.DeepEqual(names, []string{"a", "c"}) {
			t.Errorf("names are %v", names)
		}
		c.End()
		if late := b.Late(); late != nil {
			t.Errorf("c has ended, and is late: %v", late)
		}
		a.End()
	})
}

// A loop that waits by Sleep keeps its promise, however long that takes, and notices
// when it is over.
func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Board{}
		l := b.Loop("a")
		done := make(chan struct{})
		go func() {
			defer l.End()
			if !l.Sleep(done, time.Hour) {
				t.Error("the first ends early")
			}
			if l.Sleep(done, time.Hour) {
				t.Error("the second does not end early")
			}
		}()
		for range 90 {
			time.Sleep(time.Minute)
			if late := b.Late(); late != nil {
				t.Fatalf("late: %v", late)
			}
		}
		close(done)
		synctest.Wait()
		if names := b.Names(); names != nil {
			t.Errorf("%v are left", names)
		}
	})
}

// A loop that leaves before it may is late; afterwards it has ended.
func TestLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Board{}
		ctx, cancel := context.WithCancel(t.Context())
		a := b.Loop("a")
		time.Sleep(time.Second)
		a.Leave(ctx)
		if late := b.Late(); len(late) != 1 || late[0].Doing != "has ended" {
			t.Errorf("gone, and late are %v", late)
		}
		cancel()
		a.Leave(ctx)
		if names := b.Names(); names != nil {
			t.Errorf("%v are left", names)
		}
	})
}

// Nobody has to watch.
func TestNobody(t *testing.T) {
	var b *Board
	l := b.Loop("a")
	l.Beat()
	l.Rest(time.Second)
	l.Do("x", time.Second)
	l.Leave(t.Context())
	if l.Pulse() != nil || !l.Sleep(nil, 1) || b.Late() != nil || b.Names() != nil {
		t.Error("nobody is somebody")
	}
	l.End()
}

func TestCostsNoMemory(t *testing.T) {
	b := &Board{}
	l := b.Loop("a")
	defer l.End()
	if n := testing.AllocsPerRun(1000, func() { l.Beat(); l.Rest(time.Second) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkBeat(b *testing.B) {
	l := (&Board{}).Loop("a")
	defer l.End()
	b.ReportAllocs()
	for b.Loop() {
		l.Beat()
	}
}
