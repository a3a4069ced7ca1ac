package registry_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/covey-edge/covey/fleet/internal/group"
	"github.com/covey-edge/covey/fleet/internal/registry"
	"github.com/covey-edge/covey/fleet/wire"
)

// who are the devices of a query, or what is wrong with it.
func (r *rig) who(text string) string {
	q, err := r.Query(text)
	if err != nil {
		return err.Error()
	}
	var ids []string
	for _, d := range r.Select(q) {
		ids = append(ids, string(d.ID))
		if !r.Match(q, d) {
			return "selected and not matched: " + string(d.ID)
		}
	}
	return strings.Join(ids, " ")
}

func TestGroups(t *testing.T) {
	r := start(t)
	for _, id := range []wire.DeviceID{"c", "a", "b"} {
		r.join(t, id)
	}
	r.send(t, "a", "status", wire.Status{V: 1, State: wire.StateOnline, SID: 1, MID: "m"})
	set := func(g registry.Group) {
		t.Helper()
		if _, err := r.SetGroup(g); err != nil {
			t.Fatal(err)
		}
	}
	w := r.Watch(10)
	defer w.Close()
	set(registry.Group{Name: "up", Membership: group.Dynamic, Query: "online=true"})
	set(registry.Group{Name: "two", Membership: group.Static, Devices: []wire.DeviceID{"b", "a", "b", "not-here-yet"}})
	set(registry.Group{Name: "mix", Membership: group.Snapshot, Query: "@two and not group up"})
	for range 3 {
		if e := <-w.C; e.Kind != registry.EventGroup {
			t.Errorf("event %s", e.Kind)
		}
	}
	check := func() {
		t.Helper()
		for text, want := range map[string]string{"@up": "a", "@two": "a b", "@mix": "b", "@mix or c": "b c", "all": "a b c", "a,c": "a c"} {
			if got := r.who(text); got != want {
				t.Errorf("%s: %s, want %s", text, got, want)
			}
		}
		g, _ := r.Group("two")
		if len(r.Groups()) != 3 || fmt.Sprint(g.Devices) != "[a b not-here-yet]" {
			t.Errorf("groups %+v", r.Groups())
		}
		for text, want := range map[string]group.Membership{"@up": group.Dynamic, "@two": group.Static, "@mix": group.Snapshot, "@up and a": group.Snapshot, "online": group.Snapshot} {
			q, err := r.Query(text)
			if got := r.Membership(q); err != nil || got != want {
				t.Errorf("%s is %s, %v, want %s", text, got, err, want)
			}
		}
	}
	check()

	for name, bad := range map[string]struct {
		g    registry.Group
		want string
	}{
		"itself":      {registry.Group{Name: "up", Membership: group.Dynamic, Query: "a or @mix"}, "mix → up → mix"},
		"at once":     {registry.Group{Name: "new", Membership: group.Dynamic, Query: "@new"}, "new → new"},
		"nobody":      {registry.Group{Name: "new", Membership: group.Dynamic, Query: "@nobody"}, "no group nobody"},
		"mistake":     {registry.Group{Name: "new", Membership: group.Dynamic, Query: "site =="}, "expected a value"},
		"name":        {registry.Group{Name: "New", Membership: group.Dynamic, Query: "all"}, "use [a-z0-9-]"},
		"kind":        {registry.Group{Name: "new", Query: "all"}, "not static, snapshot or dynamic"},
		"id":          {registry.Group{Name: "new", Membership: group.Static, Devices: []wire.DeviceID{"A"}}, "not the id"},
		"too many":    {registry.Group{Name: "new", Membership: group.Static, Devices: make([]wire.DeviceID, 1)}, "not the id"},
		"a long list": {registry.Group{Name: "new", Membership: group.Static, Devices: ids(registry.MaxMembers + 1)}, "at most"},
	} {
		if _, err := r.SetGroup(bad.g); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: %v, want %s", name, err, bad.want)
		}
	}
	if err := r.DeleteGroup("two"); !errors.Is(err, registry.ErrUsed) {
		t.Errorf("deleted under another: %v", err)
	}
	if err := r.DeleteGroup("nobody"); !errors.Is(err, registry.ErrNoGroup) {
		t.Errorf("deleted nobody: %v", err)
	}

	r.db.Close()
	r.open(t)
	r.send(t, "a", "status", wire.Status{V: 1, State: wire.StateOnline, SID: 2, MID: "m"})
	check()
	for _, name := range []string{"mix", "two"} {
		if err := r.DeleteGroup(name); err != nil {
			t.Error(err)
		}
	}
	if got := r.who("@two"); !strings.Contains(got, "no group two") {
		t.Error(got)
	}
}

func ids(n int) (list []wire.DeviceID) {
	for i := range n {
		list = append(list, wire.DeviceID(fmt.Sprintf("d-%d", i)))
	}
	return list
}

func TestOperatorsLabelsWin(t *testing.T) {
	r := start(t)
	r.join(t, "pi") // site=north, by its token
	r.send(t, "pi", "hello", wire.Hello{V: 1, SID: 1, Labels: map[string]string{"site": "own", "rack": "7"}})
	for text, want := range map[string]string{"site == north and rack == 7": "pi", "site == own": ""} {
		if got := r.who(text); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	d, _ := r.Device("pi")
	if fmt.Sprint(d.AllLabels()) != "map[rack:7 site:north]" {
		t.Errorf("labels %v", d.AllLabels())
	}
	if err := r.SetLabels("pi", map[string]string{"site": ""}); err != nil {
		t.Fatal(err)
	}
	d, _ = r.Device("pi")
	if r.who("site == own") != "pi" || fmt.Sprint(d.AllLabels()) != "map[rack:7 site:own]" {
		t.Errorf("without the operator's: %v", d.AllLabels())
	}
	for name, bad := range map[string]map[string]string{
		"a field": {"board": "x"}, "a word of queries": {"all": "x"}, "no id": {"A": "x"}, "a comma": {"a": "x,y"}, "long": {"a": strings.Repeat("x", 65)},
		"space": {"a": " x"}, "control": {"a": "\x00"}, "many": many(33),
	} {
		if err := r.SetLabels("pi", bad); !errors.Is(err, registry.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := r.SetLabels("pi", many(32)); err != nil {
		t.Error(err)
	}
	if err := r.SetLabels("pi", map[string]string{"more": "x"}); !errors.Is(err, registry.ErrInvalid) {
		t.Errorf("the 33rd: %v", err)
	}
	if err := r.SetLabels("pi", map[string]string{"l0": "", "more": "x"}); err != nil {
		t.Errorf("one for another: %v", err)
	}
}

func many(n int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m[fmt.Sprintf("l%d", i)] = "x"
	}
	return m
}
