"""Who works for which brand: the only writer of BrandStaff, and the one answer to what a member of staff may reach."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.backends import BaseBackend
from django.db import transaction
from django.db.models import QuerySet

from keys import audit
from keys.audit import Actor
from keys.models import Brand, BrandStaff, User

Role = BrandStaff.Role
_KEPT = "_roles_by_brand"


def appoint(*, user: User, brand: Brand, role: str, actor: Actor, address: str | None = None) -> BrandStaff:
    """`user` works for `brand` in `role` from now on, or changes to it. Opens the operators' site to them."""
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        stood = BrandStaff.objects.filter(user=user, brand=brand).first()
        before = {"role": stood.role} if stood else {}
        if stood is not None and stood.role == role:
            return stood
        row, _ = BrandStaff.objects.update_or_create(user=user, brand=brand, defaults={"role": Role(role)})
        _let_in(user)
        audit.note(
            *("staff.appointed", user.email),
            actor=actor,
            brand=brand,
            before=before,
            after={"role": row.role},
            address=address,
        )
    return row


def dismiss(row: BrandStaff, *, actor: Actor, address: str | None = None) -> None:
    """The person works for that brand no more; without any other brand the operators' site is closed to them."""
    user, brand = row.user, row.brand
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        if not BrandStaff.objects.filter(pk=row.pk).delete()[0]:
            return
        _let_in(user)
        audit.note(
            *("staff.dismissed", user.email), actor=actor, brand=brand, before={"role": row.role}, address=address
        )


def _let_in(user: User) -> None:
    user.is_staff = user.is_superuser or BrandStaff.objects.filter(user=user).exists()
    user.save(update_fields=["is_staff"])
    user.__dict__.pop(_KEPT, None)


def roles_of(user: Any) -> dict[int, str]:
    """Brand id → role of a member of staff, read once per request: the user object lives no longer."""
    if not user.is_active or not user.is_staff:
        return {}
    kept: dict[int, str] | None = user.__dict__.get(_KEPT)
    if kept is None:
        kept = dict(BrandStaff.objects.filter(user=user).values_list("brand_id", "role"))
        user.__dict__[_KEPT] = kept
    return kept


def brand_ids(user: Any, *, to_change: bool = False) -> frozenset[int] | None:
    """The brands whose rows this person may see, or change. None: all of them, a superuser's right alone."""
    if user.is_active and user.is_superuser:
        return None
    return frozenset(brand for brand, role in roles_of(user).items() if not to_change or role == Role.MANAGER)


def brands_of(user: Any) -> QuerySet[Brand]:
    ids = brand_ids(user)
    return (Brand.objects.all() if ids is None else Brand.objects.filter(pk__in=ids)).order_by("name")


def sees(user: Any, brand_id: int | None) -> bool:
    """Whether a row of that brand (None: of no brand, the installation's own) is this person's business."""
    ids = brand_ids(user)
    return ids is None or brand_id in ids


class BrandStaffBackend(BaseBackend):
    """What staff of a brand may do at all; to which rows, brand_scope says. Support looks, a manager also acts."""

    def has_perm(self, user_obj: Any, perm: str, obj: Any = None) -> bool:
        roles = roles_of(user_obj)
        if perm.partition(".")[2].startswith("view_"):
            return bool(roles)
        return Role.MANAGER in roles.values()

    def has_module_perms(self, user_obj: Any, app_label: str) -> bool:
        return bool(roles_of(user_obj))
