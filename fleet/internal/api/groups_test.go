package api_test

import (
	"bufio"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/internal/auth"
	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/wire"
)

func devicesPath(query string) string {
	return "/v1/devices?" + url.Values{"query": {query}}.Encode()
}

func (c client) devices(query string) string {
	c.t.Helper()
	var list v1.Devices
	c.call("GET", devicesPath(query), nil, http.StatusOK, &list)
	var ids []string
	for _, d := range list.Devices {
		ids = append(ids, string(d.ID))
	}
	return strings.Join(ids, " ")
}

func TestGroupsAreOneLanguage(t *testing.T) {
	f, c := start(t)
	f.Join(t, "pi-1", map[string]string{"site": "lyon"}, "cam")
	f.Join(t, "pi-2", map[string]string{"site": "lyon"}, "door")
	f.Join(t, "pi-3", map[string]string{"site": "paris"}, "cam")
	c.push("m", "1.0.0", 100)

	var g v1.GroupDetail
	c.call("PUT", "/v1/groups/cams", v1.GroupRequest{Query: "pipeline has cam"}, http.StatusOK, &g)
	if g.Name != "cams" || g.Membership != "snapshot" || g.Query != `pipeline has "cam"` || g.Size != 2 || g.By != "admin" || g.Changed.IsZero() {
		t.Errorf("set as %+v", g)
	}
	c.call("PUT", "/v1/groups/two", v1.GroupRequest{Devices: []wire.DeviceID{"pi-2", "pi-1"}}, http.StatusOK, &g)
	if g.Membership != "static" || g.Size != 2 {
		t.Errorf("set as %+v", g)
	}
	c.call("PUT", "/v1/groups/both", v1.GroupRequest{Query: "@two and @cams", Membership: "dynamic"}, http.StatusOK, nil)

	// The same in list, plan, rollout and watch.
	const query = `@both or (site == "paris" and not @two)`
	if got := c.devices(query); got != "pi-1 pi-3" {
		t.Errorf("list: %s", got)
	}
	var p v1.Plan
	c.call("POST", "/v1/plan", v1.Set{Query: query, Pipeline: "cam", Release: "m"}, http.StatusOK, &p)
	var r v1.RolloutDetail
	c.call("POST", "/v1/rollouts", v1.Set{Query: query, Pipeline: "cam", Release: "m"}, http.StatusCreated, &r)
	if len(p.Targets) != 2 || len(r.Executions) != 2 || r.Executions[1].Device != "pi-3" {
		t.Errorf("plan %+v, rollout %+v", p.Targets, r.Executions)
	}

	// Only a rollout to a dynamic group itself goes on asking it, unless its policy says otherwise.
	for _, x := range []struct {
		query string
		how   policy.Policy
		want  policy.Membership
	}{
		{"@both", policy.Policy{}, policy.Dynamic},
		{"@both", policy.Policy{Membership: policy.Snapshot}, policy.Snapshot},
		{"@cams", policy.Policy{}, policy.Snapshot},
		{query, policy.Policy{}, policy.Snapshot},
	} {
		c.call("POST", "/v1/rollouts", v1.Set{Query: x.query, Pipeline: "cam", Release: "m", Policy: &x.how, Draft: true}, http.StatusCreated, &r)
		if r.Policy.Membership != x.want {
			t.Errorf("rollout to %s with %+v is %s, want %s", x.query, x.how, r.Policy.Membership, x.want)
		}
	}

	// What was set first stays what it is where it is used.
	c.refused("PUT", "/v1/groups/two", v1.GroupRequest{Query: "@both"}, http.StatusUnprocessableEntity, v1.CodeInvalid)
	c.refused("DELETE", "/v1/groups/cams", nil, http.StatusConflict, v1.CodeConflict)
	c.refused("DELETE", "/v1/groups/nobody", nil, http.StatusNotFound, v1.CodeNotFound)
	c.refused("GET", "/v1/groups/nobody", nil, http.StatusNotFound, v1.CodeNotFound)
	for name, bad := range map[string]v1.GroupRequest{
		"nothing": {}, "both": {Query: "all", Devices: []wire.DeviceID{"pi-1"}}, "a static query": {Query: "all", Membership: "static"},
		"a dynamic list": {Devices: []wire.DeviceID{"pi-1"}, Membership: "dynamic"}, "another word": {Query: "all", Membership: "some"},
		"a long one": {Query: strings.Repeat("x", v1.MaxQuery+1)}, "no id": {Devices: []wire.DeviceID{"A"}},
	} {
		if p := c.refused("PUT", "/v1/groups/new", bad, http.StatusUnprocessableEntity, v1.CodeInvalid); p.Detail == "" {
			t.Errorf("%s: %+v", name, p)
		}
	}
	many := make([]wire.DeviceID, v1.MaxPage)
	for i := range many {
		many[i] = wire.DeviceID(fmt.Sprintf("device-number-with-long-id-%05d", i))
	}
	c.call("PUT", "/v1/groups/many", v1.GroupRequest{Devices: many}, http.StatusOK, nil)
	c.refused("PUT", "/v1/groups/many", v1.GroupRequest{Devices: append(many, "x")}, http.StatusUnprocessableEntity, v1.CodeInvalid)
	c.call("DELETE", "/v1/groups/many", nil, http.StatusNoContent, nil)
	var list v1.Groups
	c.call("GET", "/v1/groups", nil, http.StatusOK, &list)
	if len(list.Groups) != 3 || list.Groups[0].Name != "both" || len(list.Groups[2].Devices) != 2 {
		t.Errorf("groups: %+v", list)
	}

	token, err := f.Auth.AddToken("viewer", auth.RoleViewer)
	if err != nil {
		t.Fatal(err)
	}
	viewer := client{t, f, token}
	viewer.call("GET", "/v1/groups/two", nil, http.StatusOK, nil)
	viewer.refused("PUT", "/v1/groups/two", v1.GroupRequest{Query: "all"}, http.StatusForbidden, v1.CodeForbidden)
	viewer.refused("DELETE", "/v1/groups/both", nil, http.StatusForbidden, v1.CodeForbidden)
}

func TestAMistakeInAQueryIsPointedAt(t *testing.T) {
	_, c := start(t)
	const query = "site == lyon and ram >= lots"
	for _, call := range []struct {
		method, path string
		body         any
	}{
		{"GET", devicesPath(query), nil},
		{"GET", "/v1/watch/devices?" + url.Values{"query": {query}}.Encode(), nil},
		{"PUT", "/v1/groups/x", v1.GroupRequest{Query: query}},
	} {
		p := c.refused(call.method, call.path, call.body, http.StatusUnprocessableEntity, v1.CodeInvalid)
		if !strings.Contains(p.Detail, "column 25") || p.Fix == "" || len(p.Errors) != 1 || p.Errors[0].Mark != query+"\n"+strings.Repeat(" ", 24)+"^" {
			t.Errorf("%s %s: %+v", call.method, call.path, p)
		}
	}
}

// Who follows a named group sees it change.
func TestAWatchFollowsItsGroup(t *testing.T) {
	f, c := start(t)
	for _, id := range []wire.DeviceID{"pi-1", "pi-2"} {
		f.Join(t, id, nil, "cam")
	}
	c.call("PUT", "/v1/groups/one", v1.GroupRequest{Query: "pi-1"}, http.StatusOK, nil)
	req, err := http.NewRequestWithContext(t.Context(), "GET", f.URL+"/v1/watch/devices?query=@one", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	resp, err := c.http().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	next := func() string {
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "data: ") {
				return lines.Text()
			}
		}
		t.Fatal("the stream ended", lines.Err())
		return ""
	}
	if s := next(); !strings.Contains(s, `"pi-1"`) {
		t.Error(s)
	}
	c.call("PUT", "/v1/groups/one", v1.GroupRequest{Query: "pi-2"}, http.StatusOK, nil)
	if s := next(); !strings.Contains(s, `"pi-2"`) {
		t.Error(s)
	}
}

// A board's own labels are found and shown, under the operator's.
func TestLabelsOfABoardsOwn(t *testing.T) {
	f, c := start(t)
	d := f.Join(t, "pi-1", map[string]string{"site": "lyon"}, "cam")
	d.Say("hello", wire.Hello{V: 1, SID: 1, Labels: map[string]string{"site": "own", "rack": "7"}})
	if got := c.devices("site == lyon and rack == 7"); got != "pi-1" {
		t.Errorf("found %q", got)
	}
	var got v1.Device
	c.call("PATCH", "/v1/devices/pi-1", map[string]any{"labels": map[string]any{"site": nil}}, http.StatusOK, &got)
	if got.Labels["site"] != "own" || got.Labels["rack"] != "7" {
		t.Errorf("labels %v", got.Labels)
	}
}
