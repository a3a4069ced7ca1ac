package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/hal"
)

// An addon is where Home Assistant's supervisor has things for an add-on.
type addon struct {
	options    string // file with what its page of settings says
	data       string // folder that is kept
	files      string // folder that the owner puts models into
	supervisor string // URL
	token      string // for it
}

// addonCommand is what the add-on for Home Assistant runs.
func addonCommand() *cobra.Command {
	a := addon{token: os.Getenv("SUPERVISOR_TOKEN")}
	cmd := &cobra.Command{
		Use: "addon", Hidden: true, Args: cobra.NoArgs,
		Short: "Run as an add-on of Home Assistant",
		Long: "Writes a configuration of what the add-on's settings say and of the broker that Home Assistant has,\n" +
			"and runs the agent with it. firmware/homeassistant-addon/DOCS.md is for its owner.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := a.configure(cmd.Context())
			if err != nil {
				return err
			}
			return serve(cmd.Context(), config)
		},
	}
	cmd.Flags().StringVar(&a.options, "options", "/data/options.json", "file with the add-on's settings")
	cmd.Flags().StringVar(&a.data, "data", "/data", "folder that is kept")
	cmd.Flags().StringVar(&a.files, "files", "/config", "folder with the owner's models")
	cmd.Flags().StringVar(&a.supervisor, "supervisor", "http://supervisor", "address of the supervisor")
	return cmd
}

// configure writes the agent's configuration, and the broker's password beside it,
// and returns its path. Errors are for the add-on's log, which owners read.
func (a addon) configure(ctx context.Context) (string, error) {
	text, err := readAtMost(a.options, maxOptions)
	if err != nil {
		return "", fmt.Errorf("read the add-on's settings: %w", err)
	}
	o, err := parseOptions(text)
	if err != nil {
		return "", err
	}
	m, err := a.broker(ctx)
	if err != nil {
		return "", err
	}
	config, secrets := o.config(m, a.data, a.files)
	for _, name := range []string{brokerPassword, cameraPassword} {
		path := filepath.Join(a.data, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		if secrets[name] != "" {
			if err := blob.WriteFile(blob.OS{}, path, []byte(secrets[name]+"\n")); err != nil {
				return "", err
			}
		}
	}
	yaml, err := json.MarshalIndent(config, "", "  ") // JSON is YAML, too
	if err != nil {
		return "", err
	}
	path := filepath.Join(a.data, "agent.yaml")
	return path, blob.WriteFile(blob.OS{}, path, yaml)
}

func readAtMost(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return atMost(f, limit)
}

func atMost(r io.Reader, limit int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	return text, err
}

const (
	maxOptions     = 64 << 10 // bytes
	maxAnswer      = 64 << 10 // bytes, of the supervisor
	answerLimit    = 10 * time.Second
	brokerPassword = "broker.password"
	cameraPassword = "camera.password"
)

// addonOptions is the add-on's settings, as schema in firmware/homeassistant-addon/config.yaml
// has them.
type addonOptions struct {
	Device         string `json:"device"`
	Camera         string `json:"camera"`
	CameraURL      string `json:"camera_url"`
	CameraUser     string `json:"camera_user"`
	CameraPassword string `json:"camera_password"`
	Model          string `json:"model"`
	Labels         string `json:"labels"`
	Log            string `json:"log"`
}

// parseOptions reads the settings. What it does not know is a mistake: of the add-on's
// files, or of a version that does not fit them.
func parseOptions(text []byte) (addonOptions, error) {
	var o addonOptions
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&o); err != nil {
		return o, addonError("the add-on's settings are not as this version has them: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return o, addonError("the add-on's settings have something behind their end")
	}
	for name, s := range map[string]string{"camera_user": o.CameraUser, "camera_password": o.CameraPassword} {
		if strings.ContainsAny(s, "\r\n\x00") {
			return o, addonError("%s has a line end in it", name)
		}
	}
	switch {
	case (o.Camera == "") == (o.CameraURL == ""):
		return o, addonError("choose a camera, or give camera_url, and not both")
	case o.Camera != "" && !strings.HasPrefix(o.Camera, "/dev/"):
		return o, addonError("camera is %q, and should be a path below /dev", o.Camera)
	case o.CameraURL == "" && (o.CameraUser != "" || o.CameraPassword != ""):
		return o, addonError("camera_user and camera_password belong to camera_url")
	case o.CameraUser == "" && o.CameraPassword != "":
		return o, addonError("camera_password needs a camera_user")
	case o.Model != "" && !filepath.IsLocal(o.Model), o.Labels != "" && !filepath.IsLocal(o.Labels):
		return o, addonError("model and labels are names of files in the add-on's folder below addon_configs")
	case o.Labels != "" && o.Model == "":
		return o, addonError("labels belong to a model")
	}
	return o, nil
}

// An mqttService is what the supervisor says of the house's broker.
type mqttService struct {
	Host     string `json:"host"`
	Port     number `json:"port"`
	SSL      bool   `json:"ssl"`
	Username string `json:"username"`
	Password string `json:"password"`
}

// A number is one in JSON, or a text with one: the supervisor has said both.
type number int

func (n *number) UnmarshalJSON(text []byte) error {
	value, err := strconv.ParseUint(strings.Trim(string(text), `"`), 10, 16)
	*n = number(value)
	return err
}

// broker asks the supervisor for the house's broker.
func (a addon) broker(ctx context.Context) (mqttService, error) {
	if a.token == "" {
		return mqttService{}, addonError("there is no SUPERVISOR_TOKEN: this command is for Home Assistant's supervisor to run")
	}
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, a.supervisor+"/services/mqtt", nil)
	if err != nil {
		return mqttService{}, err
	}
	r.Header.Set("Authorization", "Bearer "+a.token)
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(r)
	if err != nil {
		return mqttService{}, addonError("the supervisor does not answer: %v", err)
	}
	defer answer.Body.Close()
	text, err := atMost(answer.Body, maxAnswer)
	if err != nil {
		return mqttService{}, addonError("the supervisor's answer about MQTT: %v", err)
	}
	return parseService(answer.StatusCode, text)
}

// parseService reads the supervisor's answer. Keys that are not known are left out: it
// says more with each version.
func parseService(status int, text []byte) (mqttService, error) {
	var a struct {
		Result  string      `json:"result"`
		Message string      `json:"message"`
		Data    mqttService `json:"data"`
	}
	err := json.Unmarshal(text, &a)
	switch m := a.Data; {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return mqttService{}, addonError("the supervisor does not let this add-on ask for MQTT (%d)", status)
	case status == http.StatusBadRequest && err == nil:
		return mqttService{}, addonError("Home Assistant has no MQTT broker for add-ons (%q): install the Mosquitto broker from the store of add-ons, start it, then start this again", a.Message)
	case status != http.StatusOK || err != nil || a.Result != "ok":
		return mqttService{}, addonError("the supervisor's answer about MQTT is not understood: %d, %q %q, %v", status, a.Result, a.Message, err)
	case m.Host == "" || m.Port == 0 || strings.ContainsAny(m.Host, "/@?#[]% \r\n\x00"):
		return mqttService{}, addonError("the supervisor says that the broker is host %q, port %d", m.Host, m.Port)
	case strings.ContainsAny(m.Username+m.Password, "\r\n\x00"):
		return mqttService{}, addonError("the broker's user or password has a line end in it")
	default:
		if m.Username == "" {
			m.Password = ""
		}
		return m, nil
	}
}

func addonError(format string, args ...any) error {
	return &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf(format, args...)}
}

// config is the agent's configuration, and the passwords that it names by file.
func (o addonOptions) config(m mqttService, data, files string) (config map[string]any, secrets map[string]string) {
	secrets = map[string]string{brokerPassword: m.Password, cameraPassword: o.CameraPassword}
	scheme := "mqtt"
	if m.SSL {
		scheme = "mqtts"
	}
	home := map[string]any{"broker": (&url.URL{Scheme: scheme, Host: net.JoinHostPort(m.Host, strconv.Itoa(int(m.Port)))}).String()}
	if m.Username != "" {
		home["user"] = m.Username
	}
	if m.Password != "" {
		home["password_file"] = filepath.Join(data, brokerPassword)
	}
	pipeline := map[string]any{"source": o.source(data)}
	if o.Model != "" {
		pipeline["model"] = filepath.Join(files, o.Model)
	}
	if o.Labels != "" {
		pipeline["labels"] = filepath.Join(files, o.Labels)
	}
	config = map[string]any{"data": filepath.Join(data, "covey"), "home": home, "pipelines": map[string]any{"camera": pipeline}}
	if o.Device != "" {
		config["device"] = o.Device
	}
	if o.Log != "" {
		config["log"] = o.Log
	}
	return config, secrets
}

// source is the camera: one that is plugged in, or one of the network by its URL.
func (o addonOptions) source(data string) map[string]any {
	if o.Camera != "" {
		return map[string]any{"type": "v4l2", "device": o.Camera}
	}
	source := map[string]any{"type": "mjpeg", "url": o.CameraURL}
	if scheme, _, _ := strings.Cut(o.CameraURL, ":"); strings.EqualFold(scheme, "rtsp") || strings.EqualFold(scheme, "rtsps") {
		source = map[string]any{"type": "rtsp", "url": o.CameraURL, "width": 640, "height": 360, "fps": 5}
	}
	if o.CameraUser != "" {
		source["user"] = o.CameraUser
	}
	if o.CameraPassword != "" {
		source["password_file"] = filepath.Join(data, cameraPassword)
	}
	return source
}
