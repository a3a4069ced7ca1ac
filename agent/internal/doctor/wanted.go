package doctor

import (
	"fmt"
	"path"
	"strings"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/modelfile"
)

// Delegate says whether a delegate that the configuration names is here: its
// library, absolute or a name that the loader searches, and the device nodes that
// its runner is given.
func Delegate(b Board, library string, nodes []string) hal.Diagnosis {
	subject := "delegate " + path.Base(library)
	at := b.delegate(library)
	if at == "" {
		return bad(subject, library+" is not here", "install it from the board's own software, or take it out of the configuration")
	}
	for _, node := range nodes {
		name := strings.TrimPrefix(node, "/")
		if !b.exists(name) {
			return bad(subject, fmt.Sprintf("%s, but there is no %s: its driver is not loaded", at, node), "load the driver of the board's own software, or take the node out of the configuration")
		}
		if err := b.Access(node); err != nil {
			return bad(subject, fmt.Sprintf("%s, but %s cannot be opened: %v", at, node, err),
				fmt.Sprintf("sudo usermod -aG $(stat -c %%G %s) %s && sudo systemctl restart covey-agent", node, b.User))
		}
	}
	return good(subject, at)
}

// delegate is the path of a delegate's library, "" when there is none.
func (b *Board) delegate(library string) string {
	if path.IsAbs(library) {
		if !b.exists(strings.TrimPrefix(path.Clean(library), "/")) {
			return ""
		}
		return library
	}
	for _, pattern := range append([]string{"usr/lib/teflon"}, libraryFolders...) {
		for _, folder := range b.glob(pattern) {
			if name := path.Join(folder, library); b.exists(name) {
				return "/" + name
			}
		}
	}
	return ""
}

// Model says whether a model that the configuration names for a pipeline can be
// read, and holds nothing that no engine knows.
func Model(pipeline, file string) hal.Diagnosis {
	subject := "model of pipeline " + pipeline
	m, err := modelfile.Open(file)
	if err == nil {
		err = m.Check(modelfile.Limits{EdgeTPU: true})
	}
	if err != nil {
		return bad(subject, err.Error(), "mend the file, or the path in the configuration")
	}
	return good(subject, file)
}
