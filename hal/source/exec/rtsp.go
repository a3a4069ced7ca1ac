package exec

import (
	"fmt"
	"net/url"
	"strconv"

	"github.com/covey-edge/covey/hal"
)

// A Camera is one that sends RTSP, or anything else that ffmpeg reads from an address.
type Camera struct {
	URL      string // rtsp or rtsps; may hold user and password
	User     string // "": as in URL
	Password string
	Width    int     // pixels, the height follows; 0: as the camera sends them
	FPS      float64 // most pictures a second; 0: as the camera sends them
}

// RTSP is ffmpeg on a camera's stream, with as little in between as it can: RTP over
// the same TCP connection, nothing buffered, pictures raw. Errors are E_SOURCE.
//
// ffmpeg takes the address with its password as an argument, which every user of the
// board can see while it runs; nothing of it gets into a log or an error.
func RTSP(c Camera) (Config, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "rtsp" && u.Scheme != "rtsps" || u.Hostname() == "" {
		// What is wrong with it is not said: it may be the password.
		return Config{}, &hal.Error{Code: hal.CodeSource, Text: "address of the camera is no URL of RTSP: write it as rtsp://192.168.1.20:554/stream1"}
	}
	if c.Width < 0 || c.Width > 8192 || !(c.FPS >= 0 && c.FPS <= 1000) {
		return Config{}, &hal.Error{Code: hal.CodeSource, Text: fmt.Sprintf("camera with a width of %d and %v pictures a second: give 0 to 8192, and 0 to 1000", c.Width, c.FPS)}
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
	args := []string{
		"ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "warning",
		// Limits on time are ours: the option's name is another one, with another
		// meaning, before ffmpeg 5.
		"-rtsp_transport", "tcp", "-fflags", "nobuffer", "-flags", "low_delay",
		"-analyzeduration", "1000000", "-probesize", "1000000",
		"-i", u.String(), "-map", "0:v:0",
	}
	if c.Width > 0 {
		args = append(args, "-vf", fmt.Sprintf("scale=%d:-2", c.Width))
	}
	if c.FPS > 0 {
		args = append(args, "-r", strconv.FormatFloat(c.FPS, 'g', -1, 64))
	}
	args = append(args, "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", "pipe:1")
	return Config{Program: args, Format: Y4M, Name: name, Secrets: secrets}, nil
}
