package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/covey-edge/covey/fleet/blob"
	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/internal/rollout"
	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// uploadPause is how long an upload may bring nothing before it is cut off.
const uploadPause = 30 * time.Second

// releases registers pushing and looking at releases. A push sends each file
// that is not here (check says so), then the manifest.
func (a *API) releases() {
	tags := []string{"releases"}
	raw := func(what string) *huma.RequestBody {
		return &huma.RequestBody{Required: true, Description: what, Content: map[string]*huma.MediaType{
			"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
		}}
	}
	add(a, huma.Operation{OperationID: "check-blob", Method: http.MethodPost, Path: "/v1/blobs/{sha}/check", Summary: "How much of a file is here", Tags: tags,
		RequestBody: raw("The SHA-256 of each block of 64 KiB, 32 bytes each")}, operator, a.checkBlob)
	add(a, huma.Operation{OperationID: "put-blob", Method: http.MethodPut, Path: "/v1/blobs/{sha}", Summary: "Send a file, or the rest of it", Tags: tags,
		RequestBody: raw("The SHA-256 of each block of 64 KiB, 32 bytes each, then the file from block `from` on")}, operator, a.putBlob)
	add(a, huma.Operation{OperationID: "push-release", Method: http.MethodPost, Path: "/v1/releases", Summary: "Make a release of files that are here", DefaultStatus: http.StatusCreated, Tags: tags,
		RequestBody: raw("The manifest, release.json, complete")}, operator, a.pushRelease)
	add(a, huma.Operation{OperationID: "list-releases", Method: http.MethodGet, Path: "/v1/releases", Summary: "Releases, newest first", Tags: tags}, viewer, a.listReleases)
	add(a, huma.Operation{OperationID: "show-release", Method: http.MethodGet, Path: "/v1/releases/{release}", Summary: "A release by name@version, name or digest", Tags: tags}, viewer, a.showRelease)
}

// Upload is a request whose body is read by the operation itself.
type Upload struct {
	body io.Reader
}

// Resolve is called by huma before the operation.
func (u *Upload) Resolve(ctx huma.Context) []error {
	u.body = &patient{ctx.BodyReader(), ctx.SetReadDeadline}
	return nil
}

// A patient reader waits for each read anew, however long the whole takes.
type patient struct {
	r        io.Reader
	deadline func(time.Time) error
}

func (p *patient) Read(b []byte) (int, error) {
	// Not every connection has deadlines; then the server's own count.
	_ = p.deadline(time.Now().Add(uploadPause))
	return p.r.Read(b)
}

// A BlobRequest names a file and its length, and begins its body with the hashes
// of its blocks: that is all it takes to go on where an upload ended.
type BlobRequest struct {
	Upload
	SHA    wire.Digest `path:"sha" pattern:"^[0-9a-f]{64}$"`
	Length int64       `query:"length" required:"true" minimum:"0" maximum:"1073741824" doc:"Bytes"`
}

// receive opens the file for writing. The caller closes it and releases the lock.
func (a *API) receive(in *BlobRequest) (p *blob.Partial, release func(), err error) {
	release, free := a.uploads.try(string(in.SHA))
	if !free {
		return nil, nil, problem(http.StatusConflict, v1.CodeBusy, "wait for it to end, then push again", "somebody else sends file %s right now", in.SHA.Short())
	}
	hashes := make([]byte, 32*blob.Blocks(in.Length))
	if _, err = io.ReadFull(in.body, hashes); err != nil {
		err = invalid("the body must begin with %d hashes of 32 bytes", blob.Blocks(in.Length))
	} else {
		p, err = a.cfg.Blobs.Receive(in.SHA, in.Length, hashes)
	}
	if err != nil {
		release()
	}
	return p, release, err
}

func (a *API) checkBlob(ctx context.Context, in *BlobRequest) (*body[v1.BlobState], error) {
	if a.cfg.Blobs.Has(in.SHA) {
		here, err := a.sound(ctx, in.SHA)
		if here || err != nil {
			return &body[v1.BlobState]{Body: v1.BlobState{Here: here}}, err
		}
	}
	p, release, err := a.receive(in)
	if err != nil {
		return nil, err
	}
	defer release()
	defer p.Close()
	return ok(v1.BlobState{From: first(p)})
}

// sound says whether a file is still what it was; one that rotted is deleted, so
// that pushing it again mends it.
func (a *API) sound(ctx context.Context, sha wire.Digest) (bool, error) {
	err := a.cfg.Blobs.Verify(ctx, sha)
	if hal.CodeOf(err) != hal.CodeHashAtRest {
		return err == nil, err
	}
	a.cfg.Log.Error().Err(err).Str("blob", string(sha)).Msg("file rotted on the controller's disk; it is sent again")
	return false, a.cfg.Blobs.Delete(sha)
}

// first is the first block that is missing; one behind the end when none is.
func first(p *blob.Partial) int {
	missing := p.Missing()
	for n := range blob.Blocks(p.Len()) {
		if missing.Has(n) {
			return n
		}
	}
	return blob.Blocks(p.Len())
}

func (a *API) putBlob(ctx context.Context, in *struct {
	BlobRequest
	From int `query:"from" minimum:"0" doc:"First block that is sent"`
}) (*empty, error) {
	if a.cfg.Blobs.Has(in.SHA) {
		return &empty{}, nil
	}
	p, release, err := a.receive(&in.BlobRequest)
	if err != nil {
		return nil, err
	}
	defer release()
	defer p.Close()
	buf := make([]byte, wire.BlockSize)
	for n := in.From; n < blob.Blocks(in.Length); n++ {
		b := buf[:min(wire.BlockSize, in.Length-int64(n)*wire.BlockSize)]
		if _, err := io.ReadFull(in.body, b); err != nil {
			return nil, problem(http.StatusBadRequest, v1.CodeInvalid, "push again: it goes on there", "the upload of %s ended in block %d", in.SHA.Short(), n)
		}
		if err := p.WriteBlock(n, b); errors.Is(err, blob.ErrBlock) {
			return nil, problem(http.StatusUnprocessableEntity, "E_HASH", "push again", "%s", err)
		} else if err != nil {
			return nil, err
		}
	}
	if p.Left() > 0 {
		return nil, invalid("%d blocks before block %d are missing", p.Left(), in.From)
	}
	return &empty{}, p.Finish(ctx)
}

func (a *API) pushRelease(ctx context.Context, in *Upload) (*body[v1.ReleaseInfo], error) {
	var manifest bytes.Buffer
	if n, err := io.Copy(&manifest, io.LimitReader(in.body, release.MaxManifest+1)); err != nil || n > release.MaxManifest {
		return nil, problem(http.StatusRequestEntityTooLarge, v1.CodeTooLarge, "", "the manifest could not be read, or is longer than %d bytes", release.MaxManifest)
	}
	e, missing, err := a.cfg.Catalogue.Add(ctx, manifest.Bytes(), principal(ctx).Name)
	if err != nil {
		return nil, err
	}
	if missing != nil {
		p := problem(http.StatusConflict, v1.CodeMissing, "send the files first: PUT /v1/blobs/{sha}", "%d files of %s@%s are not here", len(missing), e.Name, e.Version)
		for _, f := range missing {
			p.Errors = append(p.Errors, v1.Detail{Where: f.Name, What: f.SHA256})
		}
		return nil, p
	}
	a.cfg.Log.Info().Str("release", e.Name+"@"+e.Version).Str("digest", string(e.Digest)).Str("by", e.By).Msg("release pushed")
	return ok(releaseOf(e))
}

func releaseOf(e rollout.Entry) v1.ReleaseInfo {
	return v1.ReleaseInfo{Release: briefOf(e.Release), Task: e.Task, Size: e.Size, Pushed: e.Pushed, By: e.By}
}

func briefOf(r rollout.Release) v1.Release {
	return v1.Release{Digest: r.Digest, Name: r.Name, Version: r.Version}
}

func (a *API) listReleases(context.Context, *empty) (*body[v1.Releases], error) {
	list, err := a.cfg.Catalogue.List()
	if err != nil {
		return nil, err
	}
	out := v1.Releases{Releases: []v1.ReleaseInfo{}}
	for _, e := range list {
		out.Releases = append(out.Releases, releaseOf(e))
	}
	return ok(out)
}

func (a *API) showRelease(_ context.Context, in *struct {
	Release string `path:"release" maxLength:"128"`
}) (*body[v1.ReleaseDetail], error) {
	e, m, err := a.release(in.Release)
	if err != nil {
		return nil, err
	}
	out := v1.ReleaseDetail{ReleaseInfo: releaseOf(e), License: m.License, Notes: m.Notes, Golden: len(m.Golden), Variants: []v1.Variant{}}
	out.Author, out.Parent, out.Dataset, out.Commit = m.Author, m.Lineage.Parent, m.Lineage.Dataset, m.Lineage.Commit
	if m.Labels != nil {
		out.Labels = m.Labels.Name
	}
	if m.Result != nil {
		out.Kind, out.Classes = m.Result.Kind, m.Result.Labels
	}
	if m.Config != nil {
		out.Config = m.Config.Name
	}
	for _, v := range m.Variants {
		out.Variants = append(out.Variants, v1.Variant{
			File: v.File.Name, SHA256: wire.Digest(v.File.SHA256), Length: v.File.Length,
			Engine: v.Engine, Accelerator: v.Accelerator, Arch: v.Arch, Quantisation: v.Quantisation,
			MinRAM: v.MinRAM, MinRuntime: v.MinRuntime, LatencyMS: v.LatencyMS, Memory: v.Memory,
		})
	}
	return ok(out)
}

// release finds a release and reads its manifest.
func (a *API) release(ref string) (e rollout.Entry, m *release.Manifest, err error) {
	if e, err = a.cfg.Catalogue.Find(ref); err != nil {
		return e, nil, err
	}
	if m, err = a.cfg.Catalogue.Manifest(e.Digest); err != nil {
		return e, nil, fmt.Errorf("release %s@%s: %w", e.Name, e.Version, err)
	}
	return e, m, nil
}
