package exec

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	osexec "os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/covey-edge/covey/hal"
)

// A Camera is one that sends RTSP, or anything else that ffmpeg reads from an address.
type Camera struct {
	URL      string // rtsp or rtsps; may hold user and password
	User     string // "": as in URL
	Password string
	Width    int     // pixels; 0: as the camera sends them
	Height   int     // 0: as follows from the width
	FPS      float64 // most pictures a second; 0: as the camera sends them
}

// RTSP is ffmpeg on a camera's stream, with as little in between as it can: RTP over
// the same TCP connection, nothing buffered, pictures raw. Errors are E_SOURCE, and
// ctx's.
//
// Arguments every user of the board can see, and the address may hold a password: so
// ffmpeg reads it from its standard input, as a list of one. Before ffmpeg 5.1 it stays
// an argument: such a list could not say that TCP is to be used. Nothing of it gets
// into a log or an error.
func RTSP(ctx context.Context, c Camera) (Config, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "rtsp" && u.Scheme != "rtsps" || u.Hostname() == "" {
		// What is wrong with it is not said: it may be the password.
		return Config{}, &hal.Error{Code: hal.CodeSource, Text: "address of the camera is no URL of RTSP: write it as rtsp://192.168.1.20:554/stream1"}
	}
	if c.Width < 0 || c.Width > 8192 || c.Height < 0 || c.Height > 8192 || c.Width == 0 && c.Height > 0 || !(c.FPS >= 0 && c.FPS <= 1000) {
		return Config{}, &hal.Error{Code: hal.CodeSource, Text: fmt.Sprintf(
			"camera with pictures of %d×%d and %v of them a second: give 0 to 8192, a width with the height, and 0 to 1000", c.Width, c.Height, c.FPS)}
	}
	if c.User != "" {
		u.User = url.UserPassword(c.User, c.Password)
	}
	name := u.Scheme + "://" + u.Host + u.Path
	secrets := []string{u.String()}
	if password, given := u.User.Password(); given {
		secrets = append(secrets, u.User.String(), password, url.QueryEscape(password), url.PathEscape(password))
	}
	if u.RawQuery != "" {
		secrets = append(secrets, u.RawQuery)
	}
	old, err := oldFFmpeg(ctx)
	if err != nil {
		return Config{}, err
	}
	// Limits on time are ours: the option's name is another one, with another meaning,
	// before ffmpeg 5.
	input := []string{"-rtsp_transport", "tcp", "-fflags", "nobuffer", "-analyzeduration", "1000000", "-probesize", "1000000"}
	config := Config{Format: Y4M, Name: name, Secrets: secrets}
	args := []string{"ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "warning", "-flags", "low_delay"}
	if old {
		args = append(append(args, input...), "-i", u.String(), "-vsync", "passthrough")
	} else {
		config.Input = list(u, input)
		args = append(args, "-fflags", "nobuffer", "-protocol_whitelist", "pipe,rtsp,rtp,tcp,udp,tls,crypto",
			"-f", "concat", "-safe", "0", "-i", "pipe:0", "-fps_mode", "passthrough")
	}
	var filters []string
	if c.FPS > 0 {
		// One of each period, by the camera's clock. The option -r would repeat pictures.
		filters = append(filters, fmt.Sprintf("select='isnan(prev_selected_t)+gt(floor(t*%[1]s),floor(prev_selected_t*%[1]s))'", rate(c.FPS)))
		config.Stall = usualStall + period(c.FPS)
	}
	if c.Width > 0 {
		filters = append(filters, fmt.Sprintf("scale=%d:%d", c.Width, cmp.Or(c.Height, -2)))
	}
	args = append(args, "-map", "0:v:0")
	if len(filters) > 0 {
		args = append(args, "-vf", strings.Join(filters, ","))
	}
	config.Program = append(args, "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", "pipe:1")
	return config, nil
}

var old = regexp.MustCompile(`^ffmpeg version n?([0-4]\.|5\.0)`)

// oldFFmpeg says whether ffmpeg is one before 5.1. That there is none Open will tell.
func oldFFmpeg(ctx context.Context) (bool, error) {
	limited, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	said, _ := osexec.CommandContext(limited, "ffmpeg", "-version").Output()
	return old.Match(said), ctx.Err()
}

// list is an address and its options as ffmpeg's concat reads them (ffmpeg-formats(1)).
func list(u *url.URL, options []string) string {
	s := "ffconcat version 1.0\nfile '" + strings.ReplaceAll(u.String(), "'", `'\''`) + "'\n"
	for i := 0; i < len(options); i += 2 {
		s += "option " + options[i][1:] + " " + options[i+1] + "\n"
	}
	return s
}
