package api

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	v1 "github.com/covey-edge/covey/fleet/internal/api/v1"
	"github.com/covey-edge/covey/fleet/wire"
)

// downloadPause is how long a device may take for a part of an answer before it is
// cut off: a link of 300 bytes a second is just enough.
const (
	downloadPause = 30 * time.Second
	part          = 8 << 10
)

const blobPath = "/v1/blobs/"

// blobs registers what boards fetch over HTTPS: the same files that the broker sends
// in blocks, to the same devices.
func (a *API) blobs() {
	add(a, huma.Operation{OperationID: "get-blob", Method: http.MethodGet, Path: blobPath + "{sha}", Summary: "A file, or a range of it, for a device that is asked to have it; its certificate is the proof",
		Tags: []string{"devices"}}, open, a.getBlob)
}

// isBlob says whether a request is for getBlob, which lets in by itself.
func isBlob(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && strings.HasPrefix(r.URL.Path, blobPath)
}

// deviceOn says which device's certificate a connection shows.
func (a *API) deviceOn(t *tls.ConnectionState) (wire.DeviceID, error) {
	if t == nil || len(t.VerifiedChains) == 0 {
		return "", problem(http.StatusUnauthorized, v1.CodeUnauthorized, "join again with a new token from `covey device token`", "the request shows no device certificate")
	}
	return a.cfg.Auth.Device(t.PeerCertificates[0])
}

func (a *API) getBlob(_ context.Context, in *struct {
	Caller
	SHA wire.Digest `path:"sha" pattern:"^[0-9a-f]{64}$"`
}) (*huma.StreamResponse, error) {
	id, err := a.deviceOn(in.ctx.TLS())
	if err != nil {
		return nil, err
	}
	if ok, err := a.cfg.Registry.MayFetch(id, in.SHA); err != nil {
		return nil, err
	} else if !ok {
		return nil, notFound("", "device %s is not asked to have file %s…", id, in.SHA.Short())
	}
	length, err := a.cfg.Blobs.Length(in.SHA)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notFound("push the release again", "the controller does not have file %s… any more", in.SHA.Short())
	}
	if err != nil {
		return nil, err
	}
	f, err := a.cfg.Blobs.Open(in.SHA)
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		defer f.Close()
		r, w := humago.Unwrap(ctx)
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("ETag", `"`+string(in.SHA)+`"`) // the same bytes for ever
		http.ServeContent(patientWriter{w, http.NewResponseController(w)}, r, "", time.Time{}, io.NewSectionReader(f, 0, length))
	}}, nil
}

// A patientWriter waits for each write anew, however long the whole takes.
type patientWriter struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (w patientWriter) Write(b []byte) (int, error) {
	n, err := 0, error(nil)
	for n < len(b) && err == nil {
		_ = w.control.SetWriteDeadline(time.Now().Add(downloadPause)) // not every connection has one; then the server's own counts
		var m int
		m, err = w.ResponseWriter.Write(b[n:min(n+part, len(b))])
		n += m
	}
	return n, err
}
