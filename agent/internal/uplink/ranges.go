package uplink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// ErrNoConnection is wrapped by the errors of fetches that did not reach the
// controller: it may be tried for as long as the network is away.
var ErrNoConnection = errors.New("no connection to the controller")

// maxVain is how often a range is asked for without getting a block.
const maxVain = 3

// Ranges fetches blobs from the controller's HTTPS API, in ranges: for networks that
// let nothing else through.
type Ranges struct {
	API    string       // https://host:port
	Client *http.Client // shows the board's certificate
}

// Fetch pulls the missing blocks of a file and returns nil when none is missing. It
// goes on over cuts for as long as some of it comes. Errors: E_TIMEOUT when a block
// takes longer than a minute, E_LENGTH when the answer is longer than what was asked
// for; what wraps ErrGone, ErrNoConnection, blob.ErrBlock. The sink is used from the
// calling goroutine.
func (r *Ranges) Fetch(ctx context.Context, sha wire.Digest, to Sink) error {
	for vain := 0; to.Left() > 0; vain++ {
		left := to.Left()
		err := r.run(ctx, sha, to)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil:
		case hal.CodeOf(err) != "" || errors.Is(err, ErrGone) || errors.Is(err, errSink):
			return fmt.Errorf("fetch %s: %w", sha.Short(), err)
		}
		if to.Left() < left {
			vain = 0
		}
		if vain == maxVain {
			return fmt.Errorf("fetch %s: %w", sha.Short(), err)
		}
		if err != nil && !pause(ctx, rand.N(200*time.Millisecond<<vain)) {
			return context.Cause(ctx)
		}
	}
	return nil
}

// errSink says that the file on this board cannot be written.
var errSink = errors.New("not written")

// run asks for the first blocks that are missing, up to one that is here.
func (r *Ranges) run(ctx context.Context, sha wire.Digest, to Sink) error {
	from, behind := gap(to.Missing())
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slow := &hal.Error{Code: hal.CodeTimeout, Text: fmt.Sprintf("the controller sent no block in %s, with %d to go: look at its load and at the network between", maxStall, to.Left())}
	watch := time.AfterFunc(maxStall, func() { cancel(slow) })
	defer watch.Stop()
	body, length, err := r.ask(ctx, sha, from, behind)
	if err != nil {
		return cause(ctx, err)
	}
	defer body.Close()
	buf := make([]byte, wire.BlockSize)
	for n := from; n < behind && length > 0; n++ {
		b := buf[:min(wire.BlockSize, length)]
		if _, err := io.ReadFull(body, b); err != nil {
			return cause(ctx, fmt.Errorf("%w: cut in block %d: %w", ErrNoConnection, n, err))
		}
		length -= int64(len(b))
		watch.Stop() // whoever takes the block may wait
		if err := to.WriteBlock(n, b); errors.Is(err, blob.ErrBlock) {
			return err
		} else if err != nil {
			return errors.Join(errSink, err)
		}
		watch.Reset(maxStall)
	}
	return nil
}

// cause is why ctx ended, where that is behind an error.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return c
	}
	return err
}

// gap is the first blocks that are missing: from, and the one behind them.
func gap(missing blob.Bitmap) (from, behind int) {
	for !missing.Has(from) && from < len(missing)*8 {
		from++
	}
	for behind = from; missing.Has(behind); behind++ {
	}
	return from, behind
}

// ask asks for blocks and returns what holds them, length bytes. The caller closes it.
func (r *Ranges) ask(ctx context.Context, sha wire.Digest, from, behind int) (body io.ReadCloser, length int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.API+"/v1/blobs/"+string(sha), nil)
	if err != nil {
		return nil, 0, err
	}
	first, most := int64(from)*wire.BlockSize, int64(behind-from)*wire.BlockSize
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", first, first+most-1))
	resp, err := r.Client.Do(req)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrNoConnection, err)
	}
	if err := judge(resp, first, most); err != nil {
		resp.Body.Close()
		return nil, 0, err
	}
	return resp.Body, resp.ContentLength, nil
}

// judge says whether an answer is the range that begins at first and has most bytes,
// or less where the file ends.
func judge(resp *http.Response, first, most int64) error {
	switch resp.StatusCode {
	case http.StatusPartialContent:
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", first)) {
			return fmt.Errorf("the controller sent the range %.40q, not from %d on", resp.Header.Get("Content-Range"), first)
		}
	case http.StatusNotFound, http.StatusRequestedRangeNotSatisfiable:
		return fmt.Errorf("%w: %s", ErrGone, resp.Status)
	default:
		return fmt.Errorf("the controller answers %s", resp.Status)
	}
	switch {
	case resp.ContentLength > most:
		return &hal.Error{Code: hal.CodeLength, Text: fmt.Sprintf("the controller would send %d bytes: at most %d were asked for", resp.ContentLength, most)}
	case resp.ContentLength < 1:
		return &hal.Error{Code: hal.CodeLength, Text: "the controller does not say how much it sends"}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
