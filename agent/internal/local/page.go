package local

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
)

//go:embed page
var pages embed.FS

// servePage serves the page's few files. They are the same for everybody, hold no
// secret, and name each other by relative paths: a proxy may put a prefix before them.
func servePage(mux *http.ServeMux) {
	files, err := fs.ReadDir(pages, "page")
	if err != nil {
		panic(err) // it was embedded
	}
	for _, f := range files {
		body, err := pages.ReadFile("page/" + f.Name())
		if err != nil {
			panic(err)
		}
		at := "GET /" + f.Name()
		if f.Name() == "index.html" {
			at = "GET /{$}"
		}
		hash := sha256.Sum256(body)
		mux.Handle(at, asset{body, kinds[path.Ext(f.Name())], `"` + hex.EncodeToString(hash[:8]) + `"`})
	}
}

// kinds are not left to the system's own table, which may know others.
var kinds = map[string]string{
	".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
}

// An asset is one file. Browsers ask each time whether theirs is still the right one.
type asset struct {
	body       []byte
	kind, etag string
}

func (a asset) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("ETag", a.etag)
	if r.Header.Get("If-None-Match") == a.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", a.kind)
	_, _ = w.Write(a.body)
}
