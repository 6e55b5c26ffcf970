"""Shadow copies that other hosts read: shares of Samba and exports of NFS, VSS's remote expose."""
