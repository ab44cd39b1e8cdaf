package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/distribution/reference"
)

// containerd is the path of a node's containerd socket as we see it: in its
// own view of the files.
func (c *Cluster) containerd(i int) string {
	return fmt.Sprintf("/proc/%d/root/run/containerd/containerd.sock", c.processes()[nodeName(i)])
}

// importImage makes an image of files, given as SOURCE[:DEST], and imports it
// into every node. The first file is the entry point.
func (c *Cluster) importImage(ref string, files []string) error {
	// Stored under the name that the kubelet will ask for.
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return fmt.Errorf("image name %q: %w", ref, err)
	}
	image, err := makeImage(named.String(), files)
	if err != nil {
		return err
	}
	if err := c.importEverywhere(image); err != nil {
		return fmt.Errorf("import %s: %w", ref, err)
	}
	return nil
}

// importArchive imports an image that another tool has made, under the names it
// carries.
func (c *Cluster) importArchive(file string) error {
	var image []byte
	var err error
	if file == "-" {
		image, err = io.ReadAll(os.Stdin)
	} else {
		image, err = os.ReadFile(file)
	}
	if err != nil {
		return err
	}
	if err := c.importEverywhere(image); err != nil {
		return fmt.Errorf("import %s: %w", file, err)
	}
	return nil
}

// importEverywhere imports an archive into every node.
func (c *Cluster) importEverywhere(image []byte) error {
	errs := make([]error, c.Nodes)
	var group sync.WaitGroup
	for i := range c.Nodes {
		group.Go(func() {
			cmd := exec.Command("ctr", "--address", c.containerd(i+1), "--namespace", "k8s.io", "images", "import", "-")
			cmd.Stdin = bytes.NewReader(image)
			if out, err := cmd.CombinedOutput(); err != nil {
				errs[i] = fmt.Errorf("into %s: %w: %s", nodeName(i+1), err, bytes.TrimSpace(out))
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// makeImage makes an image of one layer, in the format of docker save.
func makeImage(ref string, files []string) ([]byte, error) {
	var layer, image bytes.Buffer
	entrypoint, err := writeLayer(tar.NewWriter(&layer), files)
	if err != nil {
		return nil, err
	}
	type object map[string]any
	config, err := json.Marshal(object{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": object{"Entrypoint": []string{entrypoint}, "WorkingDir": "/", "Env": []string{"PATH=/usr/local/bin:/usr/bin:/bin:/"}},
		"rootfs": object{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer.Bytes()))}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal([]object{{"Config": "config.json", "RepoTags": []string{ref}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return nil, err
	}
	out := tar.NewWriter(&image)
	err = errors.Join(
		writeEntry(out, tar.Header{Name: "config.json", Mode: 0o644}, config),
		writeEntry(out, tar.Header{Name: "layer.tar", Mode: 0o644}, layer.Bytes()),
		writeEntry(out, tar.Header{Name: "manifest.json", Mode: 0o644}, manifest),
		out.Close())
	return image.Bytes(), err
}

// writeLayer writes files and folders, and a /tmp, and returns the first one's
// place. Owners and times are left out, so equal files make equal layers.
func writeLayer(out *tar.Writer, files []string) (entrypoint string, err error) {
	err = writeEntry(out, tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, nil)
	for _, file := range files {
		source, dest, found := strings.Cut(file, ":")
		if !found {
			dest = "/" + filepath.Base(source)
		}
		if entrypoint == "" {
			entrypoint = dest
		}
		err = errors.Join(err, filepath.WalkDir(source, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(filepath.Join(dest, strings.TrimPrefix(path, source)), "/")
			header := tar.Header{Name: name, Mode: int64(info.Mode().Perm())}
			if info.IsDir() {
				header.Name, header.Typeflag = name+"/", tar.TypeDir
				return writeEntry(out, header, nil)
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return writeEntry(out, header, data)
		}))
	}
	return entrypoint, errors.Join(err, out.Close())
}

func writeEntry(out *tar.Writer, header tar.Header, data []byte) error {
	header.Size = int64(len(data))
	if err := out.WriteHeader(&header); err != nil {
		return err
	}
	_, err := out.Write(data)
	return err
}
