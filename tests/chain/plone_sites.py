"""Run inside Zope (zconsole): mounts the content database SITE and makes a Plone site in it."""

import os

import transaction
from AccessControl.SecurityManagement import newSecurityManager
from Products.CMFPlone.factory import addPloneSite
from Products.ZODBMountPoint.MountedObject import manage_addMounts
from Testing.makerequest import makerequest
from zope.globalrequest import setRequest

PROFILES = ("plone.app.contenttypes:default", "plonetheme.barceloneta:default", "plone.restapi:default")

root = makerequest(app)  # noqa: F821 -- zconsole's
setRequest(root.REQUEST)
newSecurityManager(None, root.acl_users.getUser("admin").__of__(root.acl_users))
name = os.environ["SITE"]
manage_addMounts(root, paths=[f"/{name}"], create_mount_points=True)
transaction.commit()
addPloneSite(root[name], "site", title=name, setup_content=False, extension_ids=PROFILES)
transaction.commit()
