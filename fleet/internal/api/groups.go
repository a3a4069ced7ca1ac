package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/internal/group"
	"github.com/covey-edge/covey/fleet/internal/registry"
)

// GroupName is a named group in a path.
type GroupName struct {
	Name string `path:"name" pattern:"^[a-z0-9-]{1,32}$"`
}

// groups registers the names of groups.
func (a *API) groups() {
	tags := []string{"groups"}
	add(a, huma.Operation{OperationID: "list-groups", Method: http.MethodGet, Path: "/v1/groups", Summary: "Named groups, by name", Tags: tags}, viewer, a.listGroups)
	add(a, huma.Operation{OperationID: "show-group", Method: http.MethodGet, Path: "/v1/groups/{name}", Summary: "A named group, and how many devices are in it", Tags: tags}, viewer,
		func(_ context.Context, in *GroupName) (*body[v1.GroupDetail], error) { return a.showGroup(in.Name) })
	add(a, huma.Operation{OperationID: "set-group", Method: http.MethodPut, Path: "/v1/groups/{name}", Summary: "Make a group of a query or a list, or change it", MaxBodyBytes: maxGroup, Tags: tags}, operator, a.setGroup)
	add(a, huma.Operation{OperationID: "delete-group", Method: http.MethodDelete, Path: "/v1/groups/{name}", Summary: "Forget a group; its devices stay as they are", Tags: tags}, operator,
		func(_ context.Context, in *GroupName) (*empty, error) {
			return &empty{}, a.cfg.Registry.DeleteGroup(in.Name)
		})
}

// maxGroup is how long the request for a group may be, bytes: a list of
// registry.MaxMembers fits.
const maxGroup = 512 << 10

// query reads one; empty means all.
func (a *API) query(s string) (group.Query, error) {
	if s == "" {
		return group.All(), nil
	}
	return a.cfg.Registry.Query(s)
}

// knownQuery answers what is wrong with a query while there is still a status to
// say it with.
func (a *API) knownQuery(ctx huma.Context, next func(huma.Context)) {
	if _, err := a.query(ctx.Query("query")); err != nil {
		a.writeHuma(ctx, a.problem("query", err))
		return
	}
	next(ctx)
}

// wrongQuery shows where the mistake is.
func wrongQuery(e *group.Error) *v1.Problem {
	p := problem(http.StatusUnprocessableEntity, v1.CodeInvalid, e.Fix, "query, column %d: %s", e.Column, e.What)
	p.Errors = []v1.Detail{{Where: "query", What: e.What, Mark: e.Mark()}}
	return p
}

func (a *API) listGroups(context.Context, *empty) (*body[v1.Groups], error) {
	out := v1.Groups{Groups: []v1.Group{}}
	for _, g := range a.cfg.Registry.Groups() {
		out.Groups = append(out.Groups, groupOf(g))
	}
	return ok(out)
}

func (a *API) showGroup(name string) (*body[v1.GroupDetail], error) {
	g, found := a.cfg.Registry.Group(name)
	if !found {
		return nil, fmt.Errorf("group %q: %w", name, registry.ErrNoGroup)
	}
	q, err := a.query("@" + name)
	if err != nil {
		return nil, err
	}
	return ok(v1.GroupDetail{Group: groupOf(g), Size: len(a.cfg.Registry.Select(q))})
}

func (a *API) setGroup(ctx context.Context, in *struct {
	GroupName
	Body v1.GroupRequest
}) (*body[v1.GroupDetail], error) {
	g := registry.Group{
		Name: in.Name, Membership: group.Membership(in.Body.Membership),
		Query: in.Body.Query, Devices: in.Body.Devices, By: principal(ctx).Name,
	}
	static := in.Body.Devices != nil
	if static == (in.Body.Query != "") {
		return nil, invalid("a group is either a query or a list of devices")
	}
	switch {
	case g.Membership == "" && static:
		g.Membership = group.Static
	case g.Membership == "":
		g.Membership = group.Snapshot
	case static != (g.Membership == group.Static):
		return nil, invalid("a list of devices is static, a query is snapshot or dynamic; this is to be %s", g.Membership)
	}
	if _, err := a.cfg.Registry.SetGroup(g); err != nil {
		return nil, err
	}
	a.cfg.Log.Info().Str("group", g.Name).Str("by", g.By).Msg("group set")
	return a.showGroup(g.Name)
}

func groupOf(g registry.Group) v1.Group {
	return v1.Group{Name: g.Name, Membership: string(g.Membership), Query: g.Query, Devices: g.Devices, By: g.By, Changed: g.Changed}
}
