package api

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/rs/zerolog"

	"github.com/covey-edge/covey/hal"
)

// Who is to blame decides the status, and with it what covey exits with.
func TestTheDiskIsNotTheRequest(t *testing.T) {
	a := &API{cfg: Config{Log: zerolog.Nop()}}
	for code, want := range map[hal.Code]int{
		hal.CodeDiskFull: http.StatusInsufficientStorage, hal.CodeDiskRO: http.StatusInsufficientStorage, hal.CodeDiskIO: http.StatusInsufficientStorage,
		hal.CodeManifest: http.StatusUnprocessableEntity, hal.CodeHashAtRest: http.StatusInternalServerError,
	} {
		if p := a.problem("put-blob", fmt.Errorf("push: %w", &hal.Error{Code: code, Text: "x"})); p.Status != want {
			t.Errorf("%s: %d, want %d", code, p.Status, want)
		}
	}
}
